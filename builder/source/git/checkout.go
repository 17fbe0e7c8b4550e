package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// checkoutAll fetches the tip, fills the directory, and then does what can only be done in the end.
func (s *session) checkoutAll(ctx context.Context) (*Result, error) {
	dir, err := emptyDir(s.req.Dir)
	if err != nil {
		return nil, err
	}
	subdir := strings.TrimPrefix(path.Clean("/"+s.req.Subdir), "/")
	stage := dir
	if subdir != "" {
		if stage, err = os.MkdirTemp(dir, ".checkout-"); err != nil {
			return nil, err
		}
	}
	s.modules = &modules{}
	res, err := s.fill(ctx, stage, subdir)
	if err != nil {
		return nil, err
	}
	if subdir != "" {
		if err := takeSubdir(stage, subdir, dir); err != nil {
			return nil, err
		}
	}
	return res, finish(dir, res.CommitTime, s.req.MTime == "commit")
}

// emptyDir makes a directory if there is none and refuses one that holds something.
func emptyDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory is given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("directory %s is not empty", dir)
	}
	return dir, err
}

// fill brings a commit and, if they are asked for, its submodules into dir. Of a subdir it brings that and what else it
// likes.
func (s *session) fill(ctx context.Context, dir, subdir string) (*Result, error) {
	tip, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var res *Result
	var subs []submodule
	err = s.with(ctx, tip, func(r *repo) error {
		if res, err = r.describe(ctx, tip); err != nil {
			return err
		}
		if err := matches(s.req.Checksum, res.Object, res.Commit); err != nil {
			return err
		}
		if subs, err = r.write(ctx, res, dir, subdir); err != nil {
			return err
		}
		if s.req.KeepGitDir && subdir == "" {
			return r.keepGitDir(ctx, res, dir)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The lock is gone: a submodule may be in the same repository.
	for _, m := range subs {
		if err := s.fillSubmodule(ctx, m, dir); err != nil {
			return nil, fmt.Errorf("submodule %q: %w", m.path, err)
		}
	}
	return res, nil
}

// describe reads the commit itself: what an annotated tag speaks of, and when it was committed.
func (r *repo) describe(ctx context.Context, tip Tip) (*Result, error) {
	out, err := r.git(ctx, "rev-parse", "--verify", "--quiet", tip.Object+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("%s is no commit: %w", tip.Object, err)
	}
	tip.Commit = strings.TrimSpace(out)
	if !IsHash(tip.Commit) {
		return nil, fmt.Errorf("%s is no commit", tip.Object)
	}
	raw, err := r.git(ctx, "cat-file", "commit", tip.Commit)
	if err != nil {
		return nil, err
	}
	t, err := commitTime(raw)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", tip.Commit, err)
	}
	return &Result{Tip: tip, CommitTime: t}, nil
}

// commitTime reads the committer's time from a raw commit.
func commitTime(raw string) (time.Time, error) {
	for line := range strings.Lines(raw) {
		if line == "\n" {
			break
		}
		rest, ok := strings.CutPrefix(line, "committer ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '>')+1:])
		if len(fields) == 0 {
			break
		}
		sec, err := strconv.ParseInt(fields[0], 10, 64)
		return time.Unix(sec, 0).UTC(), err
	}
	return time.Time{}, errors.New("it has no committer's time")
}

// write writes the tree of the commit, as far as subdir needs it, and returns the submodules that belong there.
func (r *repo) write(ctx context.Context, res *Result, dir, subdir string) ([]submodule, error) {
	part, err := r.part(ctx, res.Commit, subdir)
	if err != nil {
		return nil, err
	}
	paths, links, err := r.list(ctx, res.Commit, part)
	if err != nil {
		return nil, err
	}
	in := command{gitDir: r.dir, tree: dir, env: []string{"GIT_INDEX_FILE=" + filepath.Join(r.home, "index")}}
	in.args = []string{"read-tree", "--reset", res.Commit}
	if _, err := r.run(ctx, in); err != nil {
		return nil, err
	}
	in.args, in.stdin = []string{"checkout-index", "--force", "--quiet", "-z", "--stdin"}, strings.NewReader(paths)
	if _, err := r.run(ctx, in); err != nil {
		return nil, err
	}
	if !r.req.Submodules || len(links) == 0 {
		return nil, nil
	}
	return r.named(ctx, res.Commit, links)
}

// list returns the paths of what a commit has below part, each with a zero byte behind it, and the submodules among
// them. It refuses a tree that is larger than it may be: a few objects that name each other again and again are a tree
// of billions of files.
func (r *repo) list(ctx context.Context, commit, part string) (string, []submodule, error) {
	out, err := r.git(ctx, "ls-tree", "-r", "-l", "-z", "--full-tree", commit)
	if err != nil {
		return "", nil, err
	}
	return parseTree(out, part, r.req.MaxBytes)
}

// parseTree reads what git ls-tree lists, each entry with a zero byte behind it.
func parseTree(out, part string, most int64) (string, []submodule, error) {
	var paths strings.Builder
	var links []submodule
	var total int64
	for entry := range strings.SplitSeq(out, "\x00") {
		meta, name, ok := strings.Cut(entry, "\t")
		f := strings.Fields(meta) // mode, type, hash, size
		if !ok || len(f) != 4 || part != "" && !strings.HasPrefix(name, part+"/") {
			continue
		}
		if f[0] == "160000" {
			links = append(links, submodule{path: name, commit: f[2]})
		} else if n, err := strconv.ParseInt(f[3], 10, 64); err != nil || n > most-total {
			return "", nil, fmt.Errorf("the files have more than %d bytes: %w", most, errTooLarge)
		} else {
			total += n
		}
		paths.WriteString(name + "\x00")
	}
	return paths.String(), links, nil
}

// part is what has to be written for subdir: it alone if the repository itself has it, everything if it may be in a
// submodule.
func (r *repo) part(ctx context.Context, commit, subdir string) (string, error) {
	if subdir == "" {
		return "", nil
	}
	kind, err := r.git(ctx, "cat-file", "-t", commit+":"+subdir)
	switch {
	case err == nil && strings.TrimSpace(kind) == "tree":
		return subdir, nil
	case r.req.Submodules && (err != nil || strings.TrimSpace(kind) == "commit"):
		return "", nil
	}
	return "", fmt.Errorf("subdir %q is no directory of commit %s", subdir, commit)
}

// takeSubdir moves what is in the subdir of stage to dir, and removes stage.
func takeSubdir(stage, subdir, dir string) error {
	if err := dirsOnly(stage, subdir); err != nil {
		return fmt.Errorf("subdir %q: %w", subdir, err)
	}
	from := filepath.Join(stage, subdir)
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == ".git" {
			continue // of a submodule
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(stage)
}

// dirsOnly refuses a path below root that has anything but directories in it, links above all.
func dirsOnly(root, name string) error {
	at := root
	for part := range strings.SplitSeq(name, "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no %q", part)
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%q is no directory", part)
		}
	}
	return nil
}

// finish gives everything below dir its mode, owner and time. It follows no link.
func finish(dir string, t time.Time, times bool) error {
	root := os.Geteuid() == 0
	var all []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		all = append(all, name)
		if root {
			if err := os.Lchown(name, 0, 0); err != nil {
				return err
			}
		}
		if inGitDir(dir, name) {
			return nil
		}
		return normalise(name, e)
	})
	if err != nil || !times {
		return err
	}
	at := unix.Timespec{Sec: t.Unix()} // a commit may be of a time beyond the reach of nanoseconds
	ts := []unix.Timespec{at, at}
	for _, name := range slices.Backward(all) { // a directory after what is in it
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "set times", Path: name, Err: err}
		}
	}
	return nil
}

func inGitDir(dir, name string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && slices.Contains(strings.Split(rel, "/"), ".git")
}

// normalise gives a file the mode that the tree has for it, whatever the umask was.
func normalise(name string, e fs.DirEntry) error {
	if e.IsDir() {
		return os.Chmod(name, 0o755)
	}
	if !e.Type().IsRegular() {
		return nil
	}
	info, err := e.Info()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	return os.Chmod(name, mode)
}
