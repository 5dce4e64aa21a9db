package record

import (
	"bytes"
	"encoding/json"
	"iter"
)

// members walks the members of a JSON object that has been found valid: their names, still in quotes, and their values as they are. What is no object
// has none. It looks at each byte once; encoding/json would do so several times.
func members(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := afterSpace(b, 0)
		if i == len(b) || b[i] != '{' {
			return
		}
		for i++; ; {
			for i = afterSpace(b, i); i < len(b) && b[i] == ','; {
				i = afterSpace(b, i+1)
			}
			if i >= len(b) || b[i] != '"' {
				return
			}
			name := b[i:afterString(b, i)]
			i = afterSpace(b, i+len(name))
			if i == len(b) || b[i] != ':' {
				return
			}
			i = afterSpace(b, i+1)
			value := b[i:afterValue(b, i)]
			if i += len(value); !yield(name, value) {
				return
			}
		}
	}
}

func afterSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// afterString is where a string ends that begins at i.
func afterString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// afterValue is where a value ends that begins at i.
func afterValue(b []byte, i int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			i = afterString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i++
			continue
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// unquote is what a string in quotes says.
func unquote(quoted []byte) (name string, err error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(bytes.Trim(quoted, `"`)), nil
	}
	err = json.Unmarshal(quoted, &name)
	return name, err
}
