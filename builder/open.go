package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"builder/builder/buildctx"
	"builder/builder/dockerfile"
)

// open brings the main context, reads the Dockerfile and the ignore file that goes with
// it, and opens the contexts.
func (b *build) open(ctx context.Context) error {
	if err := b.openSource(ctx); err != nil {
		return err
	}
	return b.openFile()
}

// openSource brings the main context and reads the Dockerfile's text.
func (b *build) openSource(ctx context.Context) (err error) {
	if b.main, err = b.openMain(ctx); err != nil {
		return err
	}
	if b.text, b.shown, b.path, err = b.main.find(b.o); err != nil {
		return err
	}
	if len(b.text) > maxDockerfile {
		return fmt.Errorf("%s: larger than %d MiB", b.shown, maxDockerfile>>20)
	}
	return nil
}

// openFile parses the Dockerfile and opens the contexts.
func (b *build) openFile() (err error) {
	if b.file, err = dockerfile.Parse(b.shown, b.text); err != nil {
		return err
	}
	var ignore buildctx.Ignore
	if !b.main.remote {
		if ignore, err = buildctx.FindIgnore(b.main.dir, b.path); err != nil {
			return err
		}
	}
	if err := b.openLock(); err != nil {
		return err
	}
	return b.openContexts(ignore)
}

// close lets go of all contexts.
func (b *build) close() {
	b.closeContexts()
	if b.main != nil {
		b.main.close()
	}
}

// shownPath is the Dockerfile's path as the user wrote it, or its name when nobody
// wrote it.
func shownPath(o BuildOptions, path string) string {
	if o.Dockerfile != "" {
		return o.Dockerfile
	}
	return filepath.Base(path)
}

// maxDockerfile bounds what is read as a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// readCapped reads a Dockerfile or a lock file, and no more of it than is needed to refuse it.
func readCapped(f *os.File) ([]byte, error) {
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDockerfile+1))
}
