package builder

import (
	"context"
	"fmt"
	"io"

	"builder/builder/dockerfile"
	"builder/builder/plan"
)

// Answer is what is known of a Dockerfile without building it. Its JSON form is that of
// BuildKit's frontend.
type Answer interface {
	// Print writes the answer as text.
	Print(w io.Writer) error
}

// Call answers a question about a Dockerfile: "check" for what the lint rules say of it,
// "outline" for the arguments, secrets and caches that the target takes, "targets" for its
// stages. Base images are looked up, nothing is built. ok is false when a check found
// something.
func (s *Store) Call(ctx context.Context, kind string, o BuildOptions) (answer Answer, ok bool, err error) {
	b := &build{store: s, o: o}
	defer b.close()
	if err := b.openSource(ctx); err != nil {
		return nil, false, err
	}
	err = b.openFile()
	if kind == "check" {
		return b.check(ctx, err)
	}
	if err != nil {
		return nil, false, err
	}
	switch kind {
	case "outline":
		answer, err = b.outline(ctx)
	case "targets":
		answer, err = plan.Targets(b.file)
	default:
		err = fmt.Errorf("--call=%s: it must be build, check, outline or targets", kind)
	}
	return answer, err == nil, err
}

// check gathers what the rules say, and what keeps the file from being built.
func (b *build) check(ctx context.Context, parseErr error) (Answer, bool, error) {
	err := parseErr
	var warnings []dockerfile.Warning
	if err == nil {
		o := b.planOptions()
		o.AllStages = o.Target == ""
		var known map[plan.Ref]*plan.Image
		if known, err = b.learn(ctx, o); err == nil {
			warnings, err = plan.Check(b.file, o, known)
		}
	}
	res := plan.NewCheckResult(b.shown, b.text, warnings, err)
	return res, res.OK(), nil
}

func (b *build) outline(ctx context.Context) (Answer, error) {
	o := b.planOptions()
	known, err := b.learn(ctx, o)
	if err != nil {
		return nil, err
	}
	return plan.Outline(b.file, o, known)
}
