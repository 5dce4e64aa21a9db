package credential

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Secret reads a file that holds a password or a token, and nothing else but the end of its line. What it returns gives the secret as the
// file has it at that time. No error shows any of it.
func Secret(path string, log *slog.Logger) (func() (string, error), error) {
	f, err := read(log, func(contents [][]byte) (string, error) { return secretOf(path, contents[0]) }, path)
	if err != nil {
		return nil, err
	}
	return func() (string, error) { return f.get(), nil }, nil
}

func secretOf(path string, content []byte) (string, error) {
	s := strings.TrimRight(string(content), "\r\n")
	switch {
	case s == "":
		return "", fmt.Errorf("%s is empty", path)
	case !utf8.ValidString(s), strings.ContainsFunc(s, unicode.IsControl):
		return "", fmt.Errorf("%s holds more than one line of text: it must hold the secret alone", path)
	}
	return s, nil
}
