package buildctx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"
)

// maxIgnoreFile bounds an ignore file in bytes; the largest in public use are a few kilobytes.
const maxIgnoreFile = 4 << 20

// Ignore is an ignore file as found: its name as shown to users (".dockerignore", "app.Dockerfile.dockerignore") and its
// patterns in order. The zero Ignore hides nothing.
type Ignore struct {
	Name     string
	Patterns []string
	lines    map[string]int // where each pattern stands, the last place of several
}

// Line is the number of the line that a pattern stands on; 0 for one that the file does not have.
func (i *Ignore) Line(pattern string) int { return i.lines[pattern] }

// ReadIgnore reads the patterns of an ignore file: a byte order mark, comments (# in the first column), blank lines and
// blanks around patterns dropped, paths cleaned, a leading slash dropped. Errors name the line and never its text.
func ReadIgnore(r io.Reader) ([]string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIgnoreFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxIgnoreFile {
		return nil, fmt.Errorf("larger than %d bytes", maxIgnoreFile)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if _, err := newMatcher(patterns); err != nil {
		return nil, badLine(data, err)
	}
	return patterns, nil
}

// badLine words an error of a whole ignore file with the number of the first line at fault.
func badLine(data []byte, err error) error {
	for i, line := range bytes.Split(data, []byte("\n")) {
		patterns, _ := ignorefile.ReadAll(bytes.NewReader(line))
		for _, p := range patterns {
			if bad := checkPattern(p); bad != nil {
				return fmt.Errorf("line %d: %w", i+1, bad)
			}
		}
	}
	return err
}

// FindIgnore reads the ignore file of a context: NAME.dockerignore beside the Dockerfile NAME when there is one, and
// otherwise .dockerignore (or else .containerignore) in the context's root. dockerfile is the Dockerfile's path, "" or
// "-" when it is not a file. No ignore file at all is the zero Ignore.
//
// The file must be regular, and a link must stay below the directory it lies in: an ignore file that leads elsewhere
// would let a context show any file of the host.
func FindIgnore(contextDir, dockerfile string) (Ignore, error) {
	if dockerfile != "" && dockerfile != "-" {
		found, err := readIgnoreIn(filepath.Dir(dockerfile), filepath.Base(dockerfile)+".dockerignore")
		if !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	for _, name := range []string{".dockerignore", ".containerignore"} {
		found, err := readIgnoreIn(contextDir, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	return Ignore{}, nil
}

func readIgnoreIn(dir, name string) (Ignore, error) {
	f, err := openRegular(dir, name, unix.RESOLVE_BENEATH)
	if err != nil {
		return Ignore{}, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	var text bytes.Buffer
	patterns, err := ReadIgnore(io.TeeReader(f, &text))
	if err != nil {
		return Ignore{}, fmt.Errorf("read %s: %w", name, err)
	}
	return Ignore{Name: name, Patterns: patterns, lines: linesOf(text.Bytes())}, nil
}

// linesOf finds the lines of an ignore file that patterns stand on.
func linesOf(data []byte) map[string]int {
	lines := map[string]int{}
	for i, line := range bytes.Split(data, []byte("\n")) {
		patterns, _ := ignorefile.ReadAll(bytes.NewReader(line))
		for _, p := range patterns {
			lines[p] = i + 1
		}
	}
	return lines
}
