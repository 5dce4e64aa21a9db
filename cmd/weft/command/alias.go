package command

import (
	"fmt"
	"strings"

	weftv1 "weft/proto/weft/v1"
)

// addAlias reads ALIAS, or ALIAS,mode=vip for one with a virtual address.
func addAlias(a *weftv1.Attachment, s string) error {
	alias, mode, given := strings.Cut(s, ",")
	if alias == "" {
		return fmt.Errorf("invalid alias %q: the name is empty", s)
	}
	a.Aliases = append(a.Aliases, alias)
	if !given {
		return nil
	}
	key, value, _ := strings.Cut(mode, "=")
	if strings.ToLower(key) != "mode" {
		return fmt.Errorf("invalid alias %q: write NAME, or NAME,mode=vip for one with a virtual address", s)
	}
	return setAliasMode(a, value)
}

// setAliasMode is for the alias that was added last.
func setAliasMode(a *weftv1.Attachment, mode string) error {
	if len(a.Aliases) == 0 {
		return fmt.Errorf("mode=%s stands before the alias that it is for: write alias=NAME,mode=%s", mode, mode)
	}
	alias := a.Aliases[len(a.Aliases)-1]
	switch strings.ToLower(mode) {
	case "vip":
		a.VipAliases = append(a.VipAliases, alias)
	case "dns": // as without a mode
	default:
		return fmt.Errorf("invalid mode %q of alias %s: it is vip (one virtual address, balanced over the members) or dns (the addresses of the members)", mode, alias)
	}
	return nil
}

// parseLink reads TARGET or TARGET:ALIAS.
func parseLink(s string) (*weftv1.Link, error) {
	target, alias, named := strings.Cut(s, ":")
	if !named {
		alias = target
	}
	if target == "" || alias == "" || strings.Contains(alias, ":") {
		return nil, fmt.Errorf("bad format for links: %s (write NAME or NAME:ALIAS)", s)
	}
	return &weftv1.Link{Target: target, Alias: alias}, nil
}

// addLinks reads several.
func addLinks(a *weftv1.Attachment, links []string) error {
	for _, s := range links {
		l, err := parseLink(s)
		if err != nil {
			return err
		}
		a.Links = append(a.Links, l)
	}
	return nil
}

// addAliases reads several.
func addAliases(a *weftv1.Attachment, aliases []string) error {
	for _, s := range aliases {
		if err := addAlias(a, s); err != nil {
			return err
		}
	}
	return nil
}
