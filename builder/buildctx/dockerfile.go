package buildctx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FindDockerfile returns the path of the Dockerfile to build. flag is the value of -f: a path as seen from the current
// directory, which may lie outside the context and may be a link; "-" (standard input) is returned as it is. Without a
// flag it is the context's Dockerfile, or else dockerfile, or else Containerfile. The error of a missing one says where it was looked for and
// is fs.ErrNotExist.
func FindDockerfile(contextDir, flag string) (string, error) {
	if flag == "-" {
		return flag, nil
	}
	if flag != "" {
		return findNamed(contextDir, flag)
	}
	for _, name := range []string{"Dockerfile", "dockerfile", "Containerfile"} {
		p := filepath.Join(contextDir, name)
		err := checkFile(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("open %s: %w", p, err)
		}
	}
	return "", fmt.Errorf("find Dockerfile: neither Dockerfile nor Containerfile in %q (name another with -f): %w", contextDir, fs.ErrNotExist)
}

func findNamed(contextDir, flag string) (string, error) {
	err := checkFile(flag)
	if err == nil {
		return flag, nil
	}
	inContext := filepath.Join(contextDir, flag)
	if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(flag) && checkFile(inContext) == nil {
		return "", fmt.Errorf("find Dockerfile %q: %w in the current directory (did you mean %q?)", flag, fs.ErrNotExist, inContext)
	}
	return "", fmt.Errorf("find Dockerfile %q: %w", flag, err)
}

// checkFile tells why path is not a readable file's: fs.ErrNotExist, or a directory. A FIFO or a device is accepted, as
// `-f <(command)` makes one.
func checkFile(path string) error {
	info, err := os.Stat(path)
	var detail *fs.PathError
	switch {
	case errors.As(err, &detail):
		return detail.Err
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("is a directory")
	}
	return nil
}
