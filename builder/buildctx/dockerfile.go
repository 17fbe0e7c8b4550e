package buildctx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenDockerfile opens the Dockerfile to build and returns its path. flag is the value of -f: a path as seen from the current
// directory, which may lie outside the context. Without a flag it is the context's Dockerfile, or else dockerfile, or else
// Containerfile. In the context links are followed inside the context alone. The error of a missing one says where it was
// looked for and is fs.ErrNotExist.
func OpenDockerfile(contextDir, flag string) (*os.File, string, error) {
	if flag != "" {
		f, err := openNamed(contextDir, flag)
		return f, flag, err
	}
	f, name, err := openFirst(contextDir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("find Dockerfile: neither Dockerfile nor Containerfile in %q (name another with -f): %w", contextDir, fs.ErrNotExist)
	}
	return f, filepath.Join(contextDir, name), err
}

// OpenFetchedDockerfile is OpenDockerfile for a context that was fetched from somewhere: flag, and the path returned, are
// relative to the context, and nothing else is looked at.
func OpenFetchedDockerfile(contextDir, flag string) (*os.File, string, error) {
	if flag == "" {
		f, name, err := openFirst(contextDir)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("find Dockerfile: neither Dockerfile nor Containerfile in the build context (name another with -f): %w", fs.ErrNotExist)
		}
		return f, name, err
	}
	f, err := OpenInside(contextDir, flag)
	if err != nil {
		return nil, "", fmt.Errorf("find Dockerfile %q in the build context: %w", flag, err)
	}
	return f, flag, nil
}

// openFirst opens the Dockerfile that a context has without its being named.
func openFirst(contextDir string) (*os.File, string, error) {
	for _, name := range []string{"Dockerfile", "dockerfile", "Containerfile"} {
		f, err := OpenInside(contextDir, name)
		if err == nil {
			return f, name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("open %s of the build context: %w", name, err)
		}
	}
	return nil, "", fs.ErrNotExist
}

func openNamed(contextDir, flag string) (*os.File, error) {
	f, err := Open(contextDir, flag)
	if err == nil {
		return f, nil
	}
	inContext := filepath.Join(contextDir, flag)
	if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(flag) && isThere(contextDir, flag) {
		return nil, fmt.Errorf("find Dockerfile %q: %w in the current directory (did you mean %q?)", flag, fs.ErrNotExist, inContext)
	}
	return nil, fmt.Errorf("find Dockerfile %q: %w", flag, err)
}

func isThere(dir, name string) bool {
	f, err := OpenInside(dir, name)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
