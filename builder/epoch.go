package builder

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strconv"
	"time"

	"builder/builder/plan"
	"builder/builder/source/git"
	"builder/builder/source/tarball"
	"builder/builder/source/web"
	"builder/snapshot"
)

// settleEpoch puts the time of a source in the place of its name, where SOURCE_DATE_EPOCH
// names one. A source without a time, as a directory is, leaves it unset.
func (b *build) settleEpoch(ctx context.Context) error {
	src, err := plan.EpochFrom(b.file, b.planOptions())
	if err != nil || src == nil {
		return err
	}
	t := b.main.modified
	if !src.Main {
		if t, err = b.timeOf(ctx, src.Op); err != nil {
			return fmt.Errorf("%s: %w", epochVariable, err)
		}
	}
	value := ""
	if !t.IsZero() {
		value = strconv.FormatInt(t.Unix(), 10)
	}
	args := maps.Clone(b.o.Plan.BuildArgs)
	if args == nil {
		args = map[string]*string{}
	}
	args[epochVariable], b.o.Plan.BuildArgs = &value, args
	return nil
}

const epochVariable = "SOURCE_DATE_EPOCH"

// timeOf asks a source for its time; zero when it has none.
func (b *build) timeOf(ctx context.Context, op plan.Op) (time.Time, error) {
	draft, err := b.store.trees.Begin("")
	if err != nil {
		return time.Time{}, err
	}
	defer draft.Discard()
	switch op := op.(type) {
	case *plan.Git:
		return b.commitTime(ctx, op, draft)
	case *plan.HTTP:
		return b.fileTime(ctx, op, draft)
	}
	return time.Time{}, nil
}

func (b *build) commitTime(ctx context.Context, op *plan.Git, draft *snapshot.Draft) (time.Time, error) {
	req, err := b.gitRequest(op)
	if err != nil {
		return time.Time{}, err
	}
	req.Dir = draft.Upper()
	res, err := git.Checkout(ctx, req)
	if err != nil {
		return time.Time{}, err
	}
	return res.CommitTime, nil
}

// fileTime is when the server says that a file was modified, or else the newest time in it
// when it is an archive.
func (b *build) fileTime(ctx context.Context, op *plan.HTTP, draft *snapshot.Draft) (time.Time, error) {
	req := b.webRequest(op)
	req.Dir = draft.Scratch()
	res, err := web.Fetch(ctx, req)
	switch {
	case err != nil:
		return time.Time{}, err
	case !res.LastModified.IsZero():
		return res.LastModified, nil
	}
	return newestIn(ctx, res.File, draft.Upper())
}

// newestIn is the latest time in an archive, which is unpacked into dir; zero for a file
// that is none.
func newestIn(ctx context.Context, path, dir string) (time.Time, error) {
	archive, err := isArchive(path)
	if err != nil || !archive {
		return time.Time{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	return tarball.Unpack(ctx, f, dir, tarball.Limits{})
}
