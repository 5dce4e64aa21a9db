package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

const defaultConfig = "/etc/weft/weftd.yaml"

// layer gives each flag that was not on the command line the value of its WEFT_… variable or else of the file's key.
// The default file may be missing, a named one not; a key that is no flag is refused.
func layer(fs *pflag.FlagSet, file string, env func(string) (string, bool)) error {
	if v, ok := env("WEFT_CONFIG"); ok && !fs.Changed("config") {
		file = v
	}
	keys, err := readConfig(file)
	if err != nil {
		return err
	}
	for k := range keys {
		if fs.Lookup(k) == nil || k == "config" {
			return fmt.Errorf("%s: unknown key %q: keys are weftd's options without the dashes; see weftd --help", file, k)
		}
	}
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "WEFT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, inEnv := env(name)
		fromFile, inFile := keys[f.Name]
		switch {
		case f.Changed || f.Name == "config" || f.Name == "help" || f.Name == "version":
		case inEnv:
			errs = append(errs, set(fs, f, []string{v}, name))
		case inFile:
			errs = append(errs, set(fs, f, fromFile, file+": "+f.Name))
		}
	})
	return errors.Join(errs...)
}

func set(fs *pflag.FlagSet, f *pflag.Flag, values []string, from string) error {
	for _, v := range values {
		if err := fs.Set(f.Name, v); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return nil
}

// readConfig returns each key's values: one, or those of a list.
func readConfig(file string) (map[string][]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && file == defaultConfig {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var raw map[string]any
	if err := yaml.UnmarshalStrict(b, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out := make(map[string][]string, len(raw))
	for k, v := range raw {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				out[k] = append(out[k], fmt.Sprint(e))
			}
		case map[string]any:
			return nil, fmt.Errorf("%s: key %q holds a map: a value or a list of values is expected", file, k)
		default:
			out[k] = []string{fmt.Sprint(v)}
		}
	}
	return out, nil
}
