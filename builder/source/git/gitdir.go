package git

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keepGitDir makes the .git directory of a checkout: the one commit with its tree, the ref that named it, HEAD on the
// commit itself, and the remote without credentials. No transport is involved; objects are packed from the cache.
func (r *repo) keepGitDir(ctx context.Context, res *Result, dir string) error {
	git := filepath.Join(dir, ".git")
	format := "sha1"
	if len(res.Commit) == 64 {
		format = "sha256"
	}
	args := []string{"init", "--quiet", "--template=", "--object-format=" + format, "--", dir}
	if _, err := r.run(ctx, command{args: args}); err != nil {
		return err
	}
	if err := r.pack(ctx, res, git); err != nil {
		return err
	}
	if err := r.shallow(ctx, res.Commit, git); err != nil {
		return err
	}
	cmds := [][]string{{"update-ref", "--no-deref", "HEAD", res.Commit}, {"read-tree", "--reset", res.Commit}}
	if res.Ref != "" && res.Ref != "HEAD" {
		cmds = append(cmds, []string{"update-ref", "--no-deref", res.Ref, res.Object})
	}
	file := filepath.Join(git, "config")
	cmds = append(cmds,
		[]string{"config", "--file", file, "remote.origin.url", r.remote.String()},
		[]string{"config", "--file", file, "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"})
	for _, args := range cmds {
		if _, err := r.run(ctx, command{args: args, gitDir: git}); err != nil {
			return err
		}
	}
	return nil
}

// pack copies the objects of the commit, and those of the tag that names it.
func (r *repo) pack(ctx context.Context, res *Result, git string) error {
	list, err := r.git(ctx, "rev-list", "--objects", "--no-object-names", "--max-count=1", res.Commit)
	if err != nil {
		return err
	}
	if res.Object != res.Commit {
		list += res.Object + "\n"
	}
	_, err = r.run(ctx, command{
		args:   []string{"pack-objects", "--quiet", "--threads=1", filepath.Join(git, "objects", "pack", "pack")},
		gitDir: r.dir, stdin: strings.NewReader(list),
	})
	return err
}

// shallow notes that the parents of the commit are missing on purpose.
func (r *repo) shallow(ctx context.Context, commit, git string) error {
	raw, err := r.git(ctx, "cat-file", "commit", commit)
	if err != nil {
		return err
	}
	for line := range strings.Lines(raw) {
		if line == "\n" {
			break
		}
		if strings.HasPrefix(line, "parent ") {
			return os.WriteFile(filepath.Join(git, "shallow"), []byte(fmt.Sprintln(commit)), 0o644)
		}
	}
	return nil
}
