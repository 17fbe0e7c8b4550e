package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// repo is a bare repository of the cache, locked.
type repo struct {
	*session
	dir  string
	lock *os.File
}

// lockFile takes an exclusive lock that ends with the file or the process.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := tryLock(path)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tryLock is lockFile without waiting; nil when another has the lock, or has just removed the file with it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err == nil && st.Nlink > 0 {
		return f, nil
	}
	f.Close()
	if err == nil || err == unix.EWOULDBLOCK || err == unix.EINTR {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// with calls fn with the repository that the cache has for the remote, holding exactly what tip says. A repository that
// turns out to be damaged is made anew, once.
func (s *session) with(ctx context.Context, tip Tip, fn func(*repo) error) error {
	sum := sha256.Sum256([]byte(s.remote.String()))
	name := hex.EncodeToString(sum[:16]) + fmt.Sprintf("-%d", 4*len(tip.Object))
	r := &repo{session: s, dir: filepath.Join(s.req.Cache, name+repoSuffix)}
	var err error
	if r.lock, err = lockFile(ctx, filepath.Join(s.req.Cache, name+lockSuffix)); err != nil {
		return err
	}
	defer r.lock.Close()
	attempt := func() error {
		if err := r.prepare(ctx, len(tip.Object) == 64); err != nil {
			return err
		}
		if err := r.fetch(ctx, tip); err != nil {
			return err
		}
		return fn(r)
	}
	err = attempt()
	tooLarge := errors.Is(err, errTooLarge)
	if err == nil || ctx.Err() != nil || !tooLarge && r.whole(ctx) {
		return err
	}
	if err2 := os.RemoveAll(r.dir); err2 != nil || tooLarge {
		return errors.Join(err, err2)
	}
	return attempt()
}

// prepare makes the repository, or takes away what a process that died in it left. Its configuration is written each
// time, so that nothing else can stand in it.
func (r *repo) prepare(ctx context.Context, sha256 bool) error {
	format, config := "sha1", "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
	if sha256 {
		format = "sha256"
		config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "HEAD")); errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(r.dir); err != nil {
			return err
		}
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			return err
		}
		args := []string{"init", "--quiet", "--bare", "--template=", "--object-format=" + format, "--", r.dir}
		if _, err := r.run(ctx, command{args: args}); err != nil {
			return err
		}
	} else if err := r.tidy(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.dir, "config"), []byte(config), 0o600); err != nil {
		return err
	}
	return r.note()
}

// tidy removes lock files and half packs: whoever wrote them is dead, as the lock is ours.
func (r *repo) tidy() error {
	return filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && (strings.HasSuffix(e.Name(), ".lock") || strings.HasPrefix(e.Name(), "tmp_")) {
			return os.Remove(path)
		}
		return nil
	})
}

// git runs a git that stays in the repository.
func (r *repo) git(ctx context.Context, args ...string) (string, error) {
	return r.run(ctx, command{args: args, gitDir: r.dir})
}

// has tells whether an object is there; git puts none where those that it needs are missing.
func (r *repo) has(ctx context.Context, object string) bool {
	_, err := r.git(ctx, "cat-file", "-e", object+"^{commit}")
	return err == nil
}

// whole tells whether everything that refs lead to is there.
func (r *repo) whole(ctx context.Context) bool {
	_, err := r.git(ctx, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")
	return err == nil
}

// errNotThere is the remote's answer to a request for a hash.
var errNotThere = errors.New("the remote does not have, or does not give, this commit by its hash")

// fetch brings what tip names unless it is there: as little as the server can be brought to give.
func (r *repo) fetch(ctx context.Context, tip Tip) error {
	if r.has(ctx, tip.Object) {
		return nil
	}
	if err := r.reach(ctx); err != nil {
		return err
	}
	if tip.Ref != "" && !r.req.FetchByCommit {
		err := r.fetchSpec(ctx, true, "+"+tip.Ref+":"+keepRef(tip.Ref))
		if err != nil && !said(err, "couldn't find remote ref") {
			return err
		}
		if err == nil && r.has(ctx, tip.Object) {
			return nil
		}
	}
	// The ref is not known or has moved.
	err := r.fetchSpec(ctx, true, "+"+tip.Object+":"+keepRef(tip.Object))
	refused := said(err, "not our ref", "unadvertised object", "no such remote ref", "couldn't find remote ref", "not allow request")
	if !refused || r.req.FetchByCommit {
		return err
	}
	if err := r.fetchSpec(ctx, false, "+refs/heads/*:refs/builder/heads/*", "+refs/tags/*:refs/builder/tags/*"); err != nil {
		return err
	}
	if !r.has(ctx, tip.Object) {
		return fmt.Errorf("commit %s: %w, nor is it part of a branch or tag", tip.Object, errNotThere)
	}
	return nil
}

// keepRef is the ref of the cache that keeps what was fetched. No name that a remote or a user chose is part of it.
func keepRef(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return "refs/builder/" + hex.EncodeToString(sum[:16])
}

// fetchSpec runs one fetch, of one commit's depth if shallow is set and the server can.
func (r *repo) fetchSpec(ctx context.Context, shallow bool, specs ...string) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--prune"}
	if !shallow {
		if _, err := os.Lstat(filepath.Join(r.dir, "shallow")); err == nil {
			args = append(args, "--unshallow")
		}
		_, err := r.run(ctx, command{args: r.specArgs(args, specs), gitDir: r.dir, net: true})
		return err
	}
	_, err := r.run(ctx, command{args: r.specArgs(append(args, "--depth=1"), specs), gitDir: r.dir, net: true})
	if said(err, "--depth", "shallow") {
		_, err = r.run(ctx, command{args: r.specArgs(args, specs), gitDir: r.dir, net: true})
	}
	return err
}

func (r *repo) specArgs(args, specs []string) []string {
	return append(append(args[:len(args):len(args)], "--end-of-options", r.final.String()), specs...)
}
