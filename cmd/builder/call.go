package main

import (
	"context"
	"strings"

	"builder/builder"
)

// answer prints what --call asks for. A check that found something ends with status 1.
func (f *buildFlags) answer(ctx context.Context, g *global, s *builder.Store, o builder.BuildOptions) error {
	kind, rest, _ := strings.Cut(f.call, ",")
	format := ""
	for _, field := range strings.Split(rest, ",") {
		switch {
		case field == "":
		case field == "format=json", field == "format=text":
			format = strings.TrimPrefix(field, "format=")
		default:
			return usagef("--call=%s: %q is not supported; use format=json", f.call, field)
		}
	}
	switch kind {
	case "check", "outline", "targets":
	default:
		return usagef("--call=%s: it must be build, check, outline or targets", f.call)
	}
	answer, ok, err := s.Call(ctx, kind, o)
	o.Progress.Close()
	if err != nil {
		return err
	}
	if format == "json" {
		err = printJSON(g.out, answer)
	} else {
		err = answer.Print(g.out)
	}
	if err == nil && !ok {
		return statusError{code: exitFailed}
	}
	return err
}
