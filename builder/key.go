package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"builder/builder/cache"
	"builder/builder/plan"

	"github.com/containerd/platforms"
)

// key lists everything that the result of a step depends on, save the content of the
// tree it rests on, which may not be known yet. What is not listed here must not
// change a result: arguments that the step cannot see, proxies, times, the order of
// other stages, limits on memory and processors.
func (b *build) key(ctx context.Context, s *plan.Step) (*cache.Inputs, error) {
	in := &cache.Inputs{}
	in.Add("platform", platforms.FormatAll(s.Platform))
	switch op := s.Op.(type) {
	case *plan.Run:
		return in, b.runKey(ctx, in, op)
	case *plan.Copy:
		return in, b.copyKey(ctx, s, in, op)
	case *plan.Mkdir:
		in.Add("directory", op.Path)
		in.Add("user", op.User)
	case *plan.HTTP:
		return in, b.httpKey(ctx, s, in, op)
	case *plan.Git:
		return in, b.gitKey(ctx, s, in, op)
	default:
		return nil, fmt.Errorf("a step of kind %T has no key", op)
	}
	return in, nil
}

func (b *build) runKey(ctx context.Context, in *cache.Inputs, op *plan.Run) error {
	in.Add("command", canonical(op.Args))
	for _, kv := range op.Env {
		k, v, _ := strings.Cut(kv, "=")
		in.Add("variable "+k, v)
	}
	in.Add("working directory", op.Dir)
	in.Add("user", op.User)
	in.Add("network", op.Network)
	in.Add("hostname", op.Hostname)
	in.Add("security", op.Security)
	for _, d := range op.Devices {
		in.Add("device "+d.Name, fmt.Sprint(d.Required))
	}
	for _, f := range op.Files {
		in.Add("script "+f.Name, fmt.Sprintf("%o %s", f.Mode, f.Data))
	}
	for _, u := range b.o.Sandbox.Limits.Ulimits {
		in.Add("ulimit "+u.Name, fmt.Sprintf("%d:%d", u.Soft, u.Hard))
	}
	for _, h := range b.o.Sandbox.Hosts {
		in.Add("host "+h.Name, "") // where it points to is the machine's affair
	}
	for i := range op.Mounts {
		if err := b.mountKey(ctx, in, &op.Mounts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) copyKey(ctx context.Context, s *plan.Step, in *cache.Inputs, op *plan.Copy) error {
	sources := op.Sources()
	for i, src := range sources {
		in.Add(fmt.Sprintf("sources %d", i), fmt.Sprintf("%v %s", src.Unpack, canonical(rooted(src.Paths, op.Parents))))
	}
	for _, f := range op.Inline {
		in.Add("heredoc "+f.Name, fmt.Sprintf("%o %s", f.Mode, f.Data))
	}
	in.Add("destination", op.Dest)
	in.Add("--chown", op.Chown)
	in.Add("--chmod", op.Chmod)
	in.Add("--link", fmt.Sprint(op.Link))
	in.Add("--parents", fmt.Sprint(op.Parents))
	in.Add("--exclude", canonical(op.Exclude))
	if len(sources) == 0 {
		return nil
	}
	sum, err := b.filesRead(ctx, s, op)
	if err != nil {
		return err
	}
	in.Add(cache.FilesInput, string(sum))
	return nil
}

// rooted writes paths that mean the same alike. Where a "/./" means something, they
// stay as they are.
func rooted(paths []string, asWritten bool) []string {
	if asWritten {
		return paths
	}
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = path.Join("/", p)
	}
	return out
}

// canonical writes a list so that no two different ones look alike: as JSON, which has one character for all bytes that
// are no UTF-8, or with escapes that JSON does not have.
func canonical(list []string) string {
	if slices.ContainsFunc(list, func(s string) bool { return !utf8.ValidString(s) }) {
		return fmt.Sprintf("%q", list)
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // a slice of strings always has a JSON form
	}
	return string(b)
}
