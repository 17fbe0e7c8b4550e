package plan_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"builder/builder/plan"
)

func dump(g *plan.Graph, rounds [][]plan.Ref, show []string) string {
	var b strings.Builder
	for _, part := range show {
		switch part {
		case "refs":
			for i, refs := range rounds {
				fmt.Fprintf(&b, "refs %d: %v\n", i+1, refs)
			}
		case "steps":
			for _, s := range g.Steps {
				dumpStep(&b, s)
			}
			fmt.Fprintf(&b, "result %s\n", number(g.Result))
		case "config":
			config, _ := json.Marshal(g.Image.Config)
			fmt.Fprintf(&b, "config %s\n", config)
		case "platform":
			fmt.Fprintf(&b, "platform %+v\n", g.Image.Platform)
		case "history":
			for _, h := range g.Image.History[g.BaseHistory:] {
				fmt.Fprintf(&b, "%s %s\n", map[bool]string{true: "empty", false: "layer"}[h.EmptyLayer], oneLine(h.CreatedBy))
			}
		case "author":
			fmt.Fprintf(&b, "author %s\n", g.Image.Author)
		case "epoch":
			fmt.Fprintf(&b, "epoch %q\n", g.Epoch)
		case "warnings":
			for _, w := range g.Warnings {
				fmt.Fprintf(&b, "warning %s line %d: %s\n", w.Rule, w.Range.Start, w.Message)
			}
		default:
			fmt.Fprintf(&b, "cannot show %s\n", part)
		}
	}
	return strings.ReplaceAll(b.String(), fakeDigest.String(), "sha256:1…")
}

// oneLine quotes what does not fit on a line.
func oneLine(s string) string {
	if strings.ContainsAny(s, "\n\r") || strings.TrimSpace(s) != s {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func number(s *plan.Step) string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprint(s.Index)
}

func dumpStep(b *strings.Builder, s *plan.Step) {
	fmt.Fprintf(b, "%d %s\n", s.Index, oneLine(s.Name))
	switch op := s.Op.(type) {
	case *plan.Base:
		fmt.Fprintf(b, "  image %s for %s\n", op.Ref.Name, op.Ref.Platform)
		return
	case *plan.Run:
		dumpRun(b, op)
	case *plan.Copy:
		dumpCopy(b, op)
	case *plan.HTTP, *plan.Git:
		fmt.Fprintf(b, "  %s %s\n", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", op), "*plan.")), fields(op))
		return
	case *plan.Mkdir:
		fmt.Fprintf(b, "  mkdir %s", op.Path)
		if op.User != "" {
			fmt.Fprintf(b, " for %s", op.User)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(b, "  on %s", number(s.Parent))
	for _, r := range s.Reads {
		fmt.Fprintf(b, ", reads %d", r.Index)
	}
	b.WriteString("\n")
}

func dumpRun(b *strings.Builder, op *plan.Run) {
	fmt.Fprintf(b, "  run %q\n", op.Args)
	var env []string
	for _, kv := range op.Env {
		if kv != "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" {
			env = append(env, kv)
		}
	}
	for _, line := range []struct {
		name  string
		value any
		plain bool
	}{
		{"env", env, len(env) == 0},
		{"proxy", op.Proxy, len(op.Proxy) == 0},
		{"dir", op.Dir, op.Dir == "/"},
		{"user", op.User, op.User == ""},
		{"network", op.Network, op.Network == "default"},
		{"hostname", op.Hostname, op.Hostname == "buildkitsandbox"},
		{"security", op.Security, op.Security == "sandbox"},
	} {
		if !line.plain {
			fmt.Fprintf(b, "  %s %q\n", line.name, line.value)
		}
	}
	for _, m := range op.Mounts {
		fmt.Fprintf(b, "  mount %s\n", fields(&m))
	}
	for _, d := range op.Devices {
		fmt.Fprintf(b, "  device %s\n", fields(&d))
	}
	for _, f := range op.Files {
		fmt.Fprintf(b, "  file %s %#o %q\n", f.Name, f.Mode, f.Data)
	}
}

// fields writes the fields of a struct that are not zero.
func fields(op any) string {
	var out []string
	v := reflect.ValueOf(op).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		text := fmt.Sprint(f.Interface())
		switch value := f.Interface().(type) {
		case plan.From:
			text = dumpFrom(value)
		case *uint32:
			text = fmt.Sprintf("%#o", *value)
		case string:
			text = fmt.Sprintf("%q", value)
		}
		out = append(out, v.Type().Field(i).Name+"="+text)
	}
	return strings.Join(out, " ")
}

func dumpFrom(from plan.From) string {
	switch {
	case from.Tree:
		return number(from.Step)
	case from.Context != "":
		return "context " + from.Context
	}
	return "context"
}

func dumpCopy(b *strings.Builder, op *plan.Copy) {
	fmt.Fprintf(b, "  copy from %s %q to %q", dumpFrom(op.From), op.Paths, op.Dest)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"chown=" + op.Chown, op.Chown != ""}, {"chmod=" + op.Chmod, op.Chmod != ""}, {"add", op.Add}, {"unpack", op.Unpack},
		{"link", op.Link}, {"parents", op.Parents}, {fmt.Sprintf("exclude=%q", op.Exclude), len(op.Exclude) > 0},
	} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteString("\n")
	for _, src := range op.More {
		fmt.Fprintf(b, "  and from %s %q%s\n", dumpFrom(src.From), src.Paths, map[bool]string{true: " unpack"}[src.Unpack])
	}
	for _, f := range op.Inline {
		fmt.Fprintf(b, "  file %s %#o %q\n", f.Name, f.Mode, f.Data)
	}
}
