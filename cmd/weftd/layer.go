package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

const defaultConfig = "/etc/weft/weftd.yaml"

// layer gives each flag that was not on the command line the value of its WEFT_… variable or else of the file's key.
// The default file may be missing, a named one not; a key that is no flag is refused.
func layer(fs *pflag.FlagSet, file string, env func(string) (string, bool)) error {
	if v, ok := env("WEFT_CONFIG"); ok && v != "" && !fs.Changed("config") {
		file = v
	}
	keys, err := readConfig(file)
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		f := fs.Lookup(k)
		if f == nil || notKeys[k] {
			return fmt.Errorf("%s: unknown key %q: keys are weftd's options without the dashes; see weftd --help", file, k)
		}
		if n := len(keys[k]); n > 1 && f.Value.Type() != "stringArray" {
			return fmt.Errorf("%s: key %q has %d values, and takes one", file, k, n)
		}
	}
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "WEFT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, inEnv := env(name)
		fromFile, inFile := keys[f.Name]
		switch {
		case f.Changed || notKeys[f.Name]:
		case inEnv:
			errs = append(errs, set(fs, f, []string{v}, name))
		case inFile:
			errs = append(errs, set(fs, f, fromFile, file+": "+f.Name))
		}
	})
	return errors.Join(errs...)
}

// notKeys are options of the command line alone.
var notKeys = map[string]bool{"config": true, "help": true, "version": true}

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
	keys, err := parseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return keys, nil
}

func parseConfig(b []byte) (map[string][]string, error) {
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, err
	}
	var raw map[string]any
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber() // as it is written: a name of digits is no float
	if err := d.Decode(&raw); err != nil {
		return nil, errors.New("a map of keys and values is expected")
	}
	out := make(map[string][]string, len(raw))
	for k, v := range raw {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, e := range list {
			switch e.(type) {
			case string, bool, json.Number:
				out[k] = append(out[k], fmt.Sprint(e))
			case nil:
				return nil, fmt.Errorf("key %q has no value: leave it out, or give it one", k)
			default:
				return nil, fmt.Errorf("key %q: a value or a list of values is expected", k)
			}
		}
	}
	return out, nil
}
