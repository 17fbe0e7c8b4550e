package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
)

// The oldest git that reads configuration from GIT_CONFIG_COUNT and leaves out what GIT_CONFIG_GLOBAL says.
const minMajor, minMinor = 2, 32

const (
	maxOutput = 128 << 20 // of a command whose output is read: a list of a million files
	maxErrors = 16 << 10  // of what a command says went wrong: the end of it
)

// program finds git and refuses one that is too old.
func program(ctx context.Context) (string, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return "", errors.New("git is needed for this and is not installed: there is no git in PATH")
	}
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Env = []string{"LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent"}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", path, err)
	}
	return path, checkVersion(path, string(out))
}

func checkVersion(path, out string) error {
	var major, minor int
	if _, err := fmt.Sscanf(out, "git version %d.%d", &major, &minor); err != nil {
		return fmt.Errorf("%s version: %q is no version", path, strings.TrimSpace(out))
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return fmt.Errorf("%s is version %d.%d: %d.%d or newer is needed", path, major, minor, minMajor, minMinor)
	}
	return nil
}

// settings are the whole configuration of every git that is run; files of it are not read. Of fsck's checks those are
// off that only find blemishes, which many old commits have and nothing here trips over.
var settings = [][2]string{
	{"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"core.attributesFile", "/dev/null"},
	{"core.excludesFile", "/dev/null"}, {"core.symlinks", "true"}, {"core.autocrlf", "false"}, {"core.fileMode", "true"},
	{"core.askPass", ""}, {"core.logAllRefUpdates", "false"}, {"core.protectNTFS", "true"}, {"core.protectHFS", "true"},
	{"credential.helper", ""}, {"init.templateDir", ""}, {"init.defaultBranch", "master"},
	{"gc.auto", "0"}, {"maintenance.auto", "false"}, {"advice.detachedHead", "false"},
	{"submodule.recurse", "false"}, {"fetch.recurseSubmodules", "false"}, {"fetch.unpackLimit", "1"},
	{"transfer.fsckObjects", "true"}, {"fetch.fsckObjects", "true"}, {"transfer.bundleURI", "false"},
	{"fetch.fsck.zeroPaddedFilemode", "ignore"}, {"fetch.fsck.missingSpaceBeforeDate", "ignore"},
	{"fetch.fsck.missingSpaceBeforeEmail", "ignore"}, {"fetch.fsck.missingNameBeforeEmail", "ignore"},
	{"fetch.fsck.missingEmail", "ignore"}, {"fetch.fsck.badEmail", "ignore"}, {"fetch.fsck.badName", "ignore"},
	{"fetch.fsck.badDate", "ignore"}, {"fetch.fsck.badTimezone", "ignore"}, {"fetch.fsck.badDateOverflow", "ignore"},
	{"fetch.fsck.zeroPaddedDate", "ignore"}, {"fetch.fsck.missingTaggerEntry", "ignore"},
	// Redirects are followed before git is run; see (*session).reach.
	{"http.followRedirects", "false"}, {"http.lowSpeedLimit", "10"}, {"http.lowSpeedTime", "300"},
	{"protocol.allow", "never"},
}

// command is one run of git.
type command struct {
	args   []string
	stdin  io.Reader
	gitDir string   // of the repository, if there is one
	tree   string   // of the work tree, if there is one
	env    []string // beside what all have
	net    bool     // talks to the remote
}

// environment is all that a git process sees of its surroundings.
func (s *session) environment(c command) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + s.home, "XDG_CONFIG_HOME=" + s.home,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_LITERAL_PATHSPECS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_ADVICE=0",
		"GIT_CEILING_DIRECTORIES=/", "GIT_PROTOCOL_FROM_USER=0", "GIT_LFS_SKIP_SMUDGE=1",
	}
	config := append([][2]string{}, settings...)
	if c.net {
		scheme := s.remote.url.Scheme
		config = append(config, [2]string{"protocol." + scheme + ".allow", "always"})
		env = append(env, "GIT_ALLOW_PROTOCOL="+scheme)
		env = append(env, s.netEnv()...)
		config = append(config, s.netConfig()...)
	} else {
		env = append(env, "GIT_ALLOW_PROTOCOL=none")
	}
	if c.gitDir != "" {
		env = append(env, "GIT_DIR="+c.gitDir)
	}
	if c.tree != "" {
		env = append(env, "GIT_WORK_TREE="+c.tree)
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return append(env, c.env...)
}

// run runs git to its end and returns its output. The processes that it starts end with it.
func (s *session) run(ctx context.Context, c command) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, s.git, c.args...)
	out, errs := &limited{max: maxOutput}, &limited{max: maxErrors, tail: true}
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.environment(c), s.home, c.stdin, out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	end := func() error { return nil }
	if c.net {
		end = s.watch(cancel, c.gitDir, func() int64 { return out.n.Load() + errs.n.Load() })
	}
	err := cmd.Run()
	tooMuch := end()
	switch {
	case err != nil && ctx.Err() != nil:
		return "", context.Cause(ctx)
	case out.n.Load() > maxOutput:
		return "", fmt.Errorf("git %s: its output: %w", c.args[0], errTooLarge)
	case err != nil:
		return "", &commandError{verb: c.args[0], err: err, said: s.clean(errs.b.String())}
	}
	return out.b.String(), tooMuch
}

// commandError is a git that failed.
type commandError struct {
	verb, said string
	err        error
}

func (e *commandError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("git %s: %v", e.verb, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.verb, e.said)
}

func (e *commandError) Unwrap() error { return e.err }

// said tells whether git failed and gave one of several reasons.
func said(err error, reasons ...string) bool {
	var e *commandError
	if !errors.As(err, &e) {
		return false
	}
	for _, r := range reasons {
		if strings.Contains(e.said, r) {
			return true
		}
	}
	return false
}

// clean makes git's words, part of which the server wrote, fit to be shown: no secrets, nothing that moves a terminal's
// cursor, one line.
func (s *session) clean(text string) string {
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, "xxxxx")
	}
	var lines []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// limited keeps what is written to it up to a limit and refuses more, or keeps the end of it.
type limited struct {
	b    bytes.Buffer
	n    atomic.Int64 // written
	max  int
	tail bool
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.n.Add(int64(len(p)))
	if !l.tail && l.b.Len()+len(p) > l.max {
		return 0, errTooLarge
	}
	n, err := l.b.Write(p)
	if extra := l.b.Len() - l.max; extra > 0 {
		l.b.Next(extra)
	}
	return n, err
}
