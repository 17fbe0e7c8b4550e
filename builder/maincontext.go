package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"builder/builder/attest"
	"builder/builder/buildctx"
	"builder/builder/plan"
	"builder/builder/source/git"
	"builder/builder/source/tarball"
	"builder/builder/source/web"
	"builder/snapshot"
)

// mainContext is the main build context and the Dockerfile in it.
type mainContext struct {
	dir        string
	dockerfile []byte    // when the context is nothing but a Dockerfile, or it came by itself
	remote     bool      // it was brought from outside: no ignore file applies
	owned      bool      // it was an archive, whose owners mean something
	modified   time.Time // of a commit, as the server said, or of what is newest in an archive; zero for a directory
	draft      *snapshot.Draft
}

func (c *mainContext) close() error {
	if c.draft == nil {
		return nil
	}
	return c.draft.Discard()
}

// openMain makes the main context a directory, whatever it is: a directory, standard
// input ("-"), a git repository or a URL.
func (b *build) openMain(ctx context.Context) (*mainContext, error) {
	where := b.o.Context
	if isDir(where) || where != "-" && plan.KindOf(where) == plan.DirectoryContext {
		return localContext(where)
	}
	draft, err := b.store.trees.Begin("")
	if err != nil {
		return nil, err
	}
	c := &mainContext{dir: draft.Upper(), remote: true, draft: draft}
	ui := b.o.Progress.Step("load build context from " + shownContext(where))
	ui.Start()
	if where == "-" {
		err = c.read(ctx, b.o.Stdin)
	} else {
		err = b.bringMain(ctx, c)
	}
	if err != nil {
		fail(ui, err)
		return nil, errors.Join(err, c.close())
	}
	ui.Done("")
	return c, nil
}

func localContext(dir string) (*mainContext, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	return &mainContext{dir: dir}, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func shownContext(where string) string {
	if where == "-" {
		return "standard input"
	}
	return redacted(where)
}

// read takes a stream for an archive if it begins like one, else for the Dockerfile of a
// context without files.
func (c *mainContext) read(ctx context.Context, r io.Reader) error {
	in := bufio.NewReaderSize(r, tarball.SniffLen)
	head, err := in.Peek(tarball.SniffLen)
	if err != nil && err != io.EOF {
		return err
	}
	if tarball.Sniff(head) {
		c.owned = true
		c.modified, err = tarball.Unpack(ctx, in, c.dir, tarball.Limits{})
		return err
	}
	c.dockerfile, err = io.ReadAll(io.LimitReader(in, maxDockerfile+1))
	return err
}

// bringMain fills the context from a git repository or a URL.
func (b *build) bringMain(ctx context.Context, c *mainContext) error {
	op, err := plan.Fetch(b.o.Context, false, b.o.Plan.BuildArgs)
	if err != nil {
		return err
	}
	switch op := op.(type) {
	case *plan.Git:
		return b.cloneMain(ctx, c, op)
	case *plan.HTTP:
		return b.fetchMain(ctx, c, op)
	}
	return fmt.Errorf("build context %s: nothing that can be fetched", shownContext(b.o.Context))
}

func (b *build) fetchMain(ctx context.Context, c *mainContext, op *plan.HTTP) error {
	req := b.webRequest(op)
	req.Dir = c.draft.Scratch()
	res, err := web.Fetch(ctx, req)
	if err != nil {
		return err
	}
	b.materials.main = []attest.Resource{webResource(op, res.Digest)}
	f, err := os.Open(res.File)
	if err != nil {
		return err
	}
	defer f.Close()
	err = c.read(ctx, f)
	if !res.LastModified.IsZero() {
		c.modified = res.LastModified
	}
	return err
}

func (b *build) cloneMain(ctx context.Context, c *mainContext, op *plan.Git) error {
	req, err := b.gitRequest(op)
	if err != nil {
		return err
	}
	req.Dir = c.dir
	res, err := git.Checkout(ctx, req)
	if err != nil {
		return err
	}
	c.modified = res.CommitTime
	b.materials.main = []attest.Resource{gitResource(op, res.Commit)}
	return b.rememberTip(req, res.Tip)
}

// find reads the Dockerfile and tells its name as messages show it and its path, "" when
// it is not a file.
func (c *mainContext) find(o BuildOptions) (source []byte, shown, path string, err error) {
	switch {
	case c.dockerfile != nil:
		return c.dockerfile, "Dockerfile", "", nil
	case o.Dockerfile == "-":
		source, err = io.ReadAll(io.LimitReader(o.Stdin, maxDockerfile+1))
		return source, "Dockerfile", "", err
	}
	f, path, err := c.openDockerfile(o.Dockerfile)
	if err != nil {
		return nil, "", "", err
	}
	source, err = readCapped(f)
	if c.remote {
		return source, path, "", err
	}
	return source, shownPath(o, path), path, err
}

// openDockerfile opens the Dockerfile that -f names or the context has.
func (c *mainContext) openDockerfile(flag string) (*os.File, string, error) {
	if c.remote {
		return buildctx.OpenFetchedDockerfile(c.dir, flag)
	}
	return buildctx.OpenDockerfile(c.dir, flag)
}
