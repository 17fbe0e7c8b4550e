package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// userVariable says, in the tests that a test runs as an ordinary user, which kind of user that is.
const userVariable = "BUILDER_TEST_USER"

// Kinds of ordinary users.
const (
	manyIDs = "with-subordinate-ids"
	oneID   = "without-subordinate-ids"
)

// severalIDs tells whether commands can have other ids than root's here.
func severalIDs() bool { return os.Geteuid() == 0 || os.Getenv(userVariable) == manyIDs }

// privileged tells whether a test that has to make users, owners and mounts can do so here.
func privileged() bool { return os.Geteuid() == 0 || os.Getenv(userVariable) != "" }

// ordinaryUser is a user of a machine whose /etc/passwd, /etc/subuid and /etc/subgid only the programs that a test runs
// as that user see.
type ordinaryUser struct {
	kind, dir string // dir is the user's own
	uid       int
}

func newOrdinaryUser(t *testing.T, kind string) *ordinaryUser {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become other users")
	}
	for _, program := range []string{"newuidmap", "newgidmap", "setpriv", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir, err := os.MkdirTemp("/var/tmp", "builder-user-*") // where other users get to, whatever $TMPDIR is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	u := &ordinaryUser{kind: kind, dir: dir, uid: 61731}
	ids := ""
	if kind == manyIDs {
		ids = "tester:1234560000:65536\n"
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	u.write(t, "passwd", string(passwd)+fmt.Sprintf("tester:x:%d:%d::%s/home:/bin/sh\n", u.uid, u.uid, dir))
	u.write(t, "ids", ids)
	must(t, "mkdir", "-p", dir+"/home", dir+"/tmp", dir+"/src/cmd/builder", dir+"/bin")
	must(t, "cp", "-r", "../../testdata", dir+"/src/")
	must(t, "cp", filepath.Join(tools.bin, "builder"), dir+"/bin/builder")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "cp", self, dir+"/bin/test")
	must(t, "chmod", "-R", "a+rX", dir)
	must(t, "chown", fmt.Sprintf("%d:%d", u.uid, u.uid), dir+"/home", dir+"/tmp")
	return u
}

func (u *ordinaryUser) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// becomeUser puts the user's files in place, in a mount namespace, and then is the user.
const becomeUser = `
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/ids" /etc/subuid
mount --bind "$1/ids" /etc/subgid
uid=$2
shift 2
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"`

// command is a program run as the user, in the sources' directory of this package.
func (u *ordinaryUser) command(args ...string) *exec.Cmd {
	all := []string{"-m", "sh", "-e", "-c", becomeUser, "sh", u.dir, fmt.Sprint(u.uid)}
	c := exec.Command("unshare", append(all, args...)...)
	c.Dir = filepath.Join(u.dir, "src/cmd/builder")
	c.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir + "/home", "TMPDIR=" + u.dir + "/tmp", userVariable + "=" + u.kind,
		"BUILDER_TEST_BINARY=" + u.dir + "/bin/builder", "BUILDER_TEST_BUILDAH=no",
		"GORACE=" + os.Getenv("GORACE"), "BUILDER_TEST_CACHE=" + os.Getenv("BUILDER_TEST_CACHE"), "BUILDER_SNAPSHOTTER=" + os.Getenv("BUILDER_SNAPSHOTTER"),
	}
	return c
}

// test runs tests of this binary as the user, with variables beside the usual ones.
func (u *ordinaryUser) test(t *testing.T, pattern string, env ...string) {
	t.Helper()
	cmd := u.command(u.dir+"/bin/test", "-test.run", pattern, "-test.count=1", "-test.parallel=2")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "no tests to run") {
		t.Errorf("as a user %s: %v\n%s", u.kind, err, out)
	}
}

// Dockerfiles whose images must not depend on who builds them. What changes owners in a command needs several ids.
const (
	ownersText = `FROM base AS data
COPY --chown=33:33 tree /srv
COPY --chown=nobody:www-data tree/a /etc/owned
USER 1234:5678
WORKDIR /home/of/1234
USER root
FROM data
RUN cp /srv/a /srv/made && chmod 4755 /srv/made && echo more >>/srv/a && rm /srv/sub/b && mkdir /srv/new && ln -s a /srv/link
RUN --mount=type=cache,target=/cache --mount=type=bind,from=data,target=/m cp /m/srv/a /cache/a && cp /cache/a /b && rm -r /etc/apt
COPY --from=data /srv /again
COPY --from=data --chown=1:2 /dev /devices
ADD tree.tar /added
`
	ownerText = ownersText + `RUN useradd -u 3000 -m app && chown -R app:app /srv && chown 65534 /srv/a && rm -f /etc/*- /var/log/*log
RUN mv /srv/link /srv/moved && cp -a /srv /copied && chmod 6755 /srv/made && chown 7:8 /srv/made && install -o 9 -g 10 /srv/a /installed
RUN tar -C / -cf /t.tar srv && mkdir /out && tar --same-owner -xf /t.tar -C /out && rm /t.tar && find /srv /out /etc -printf '%U:%G %m %p\n' | sort >/seen
`
	chownText = ownersText + `RUN useradd -u 3000 -m app && chown -R app:app /srv && chown 65534 /srv/a && rm -f /etc/*- /var/log/*log
USER app
RUN id -u >~/id && cp ~/id ~/copy && chmod 600 ~/copy
WORKDIR /work/of/app
`
)

// TestDigestsAsUser builds the same as root and as ordinary users, with overlayfs and with copies.
func TestDigestsAsUser(t *testing.T) {
	if tools.debian == "" || testing.Short() {
		t.Skip("long; needs a Debian base image (testdata/setup.sh)")
	}
	t.Parallel()
	for kind, text := range map[string]string{manyIDs: chownText, oneID: ownerText} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // each takes its turns at copying on the disk and at waiting
			u := newOrdinaryUser(t, kind)
			ctx := filepath.Join(u.dir, "ctx")
			must(t, "mkdir", "-p", ctx+"/tree/sub")
			u.write(t, "ctx/tree/a", "a\n")
			u.write(t, "ctx/tree/sub/b", "b\n")
			u.write(t, "ctx/Dockerfile", text)
			must(t, "ln", "-s", "a", ctx+"/tree/l")
			must(t, "tar", "--owner=42", "--group=43", "-cf", ctx+"/tree.tar", "-C", ctx+"/tree", ".")
			must(t, "cp", "-r", tools.debian, u.dir+"/debian")
			must(t, "chmod", "-R", "a+rX", u.dir+"/debian", ctx)
			args := []string{"build", "-q", "--network=none", "--build-context", "base=oci-layout://" + u.dir + "/debian", ctx}
			c := newCLI(t)
			cmd := c.command(args...)
			want := u.digest(t, cmd)
			for _, snapshotter := range []string{"overlay", "native"} {
				cmd := u.command(append([]string{u.dir + "/bin/builder", "--root", u.dir + "/home/" + snapshotter}, args...)...)
				cmd.Env = append(cmd.Env, "BUILDER_SNAPSHOTTER="+snapshotter)
				if got := u.digest(t, cmd); got != want {
					t.Errorf("with %s the user gets %s, root gets %s", snapshotter, got, want)
				}
			}
		})
	}
}

func (u *ordinaryUser) digest(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=1700000000")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// TestScriptsAsUser runs all that users may rely on once more, as ordinary users.
func TestScriptsAsUser(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	t.Parallel()
	for _, kind := range []string{manyIDs, oneID} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			newOrdinaryUser(t, kind).test(t, "^(TestScripts|TestKillInRun|TestInterrupt|TestKillInPushAndPull|TestSpoiledRegistry)$")
		})
	}
}

// TestConformanceAsUser holds the conformance cases against the results that root gets, as users: all of them if
// $BUILDER_TEST_ALL is set, else a part.
func TestConformanceAsUser(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	pattern := "^TestConformance$/^(copy-dest|run|mounts)$" // what has most to do with trees and commands
	if os.Getenv("BUILDER_TEST_ALL") != "" {
		pattern = "^TestConformance$"
	}
	t.Parallel()
	for _, snapshotter := range []string{"overlay", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			t.Parallel()
			newOrdinaryUser(t, manyIDs).test(t, pattern, "BUILDER_SNAPSHOTTER="+snapshotter)
		})
	}
}
