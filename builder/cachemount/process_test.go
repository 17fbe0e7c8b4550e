package cachemount_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/builder/cachemount"

	"go.uber.org/goleak"
)

// TestMain is also the other process: started with childVar it does one errand.
func TestMain(m *testing.M) {
	if text := os.Getenv(childVar); text != "" {
		var e errand
		err := json.Unmarshal([]byte(text), &e)
		if err == nil {
			err = e.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const childVar = "CACHEMOUNT_TEST_CHILD"

// errand is what another process does with a store.
type errand struct {
	Dir     string
	ID      string
	Sharing cachemount.Sharing
	Seed    []string
	// Rounds is how often to count up; 0 uses the cache until the standard input ends, and prints its path.
	Rounds int
}

func (e errand) run() error {
	s, err := cachemount.Open(e.Dir)
	if err != nil {
		return err
	}
	r := cachemount.Request{ID: e.ID, Sharing: e.Sharing, Seed: e.Seed}
	for range e.Rounds {
		if err := countUp(s, r); err != nil {
			return err
		}
	}
	if e.Rounds > 0 {
		return nil
	}
	m, err := s.Use(context.Background(), r)
	if err != nil {
		return err
	}
	fmt.Println(m.Path)
	io.Copy(io.Discard, os.Stdin)
	return m.Close()
}

// countUp adds 1 to the number in a cache in a way that fails when two do it at once.
func countUp(s *cachemount.Store, r cachemount.Request) error {
	m, err := s.Use(context.Background(), r)
	if err != nil {
		return err
	}
	defer m.Close()
	file := filepath.Join(m.Path, "n")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n, _ := strconv.Atoi(string(b))
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	return os.WriteFile(file, []byte(strconv.Itoa(n+1)), 0o600)
}

// child is another process at work.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

func start(t *testing.T, dir string, r cachemount.Request, rounds int) *child {
	t.Helper()
	text, err := json.Marshal(errand{dir, r.ID, r.Sharing, r.Seed, rounds})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, stdin, bufio.NewReader(stdout)}
	t.Cleanup(c.kill)
	return c
}

// path waits until the child uses the cache.
func (c *child) path(t *testing.T) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// end lets the child close its mount and go.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestSharingBetweenProcesses(t *testing.T) {
	s, dir := open(t)
	for _, sharing := range []cachemount.Sharing{cachemount.Shared, cachemount.Private} {
		t.Run(string(sharing), func(t *testing.T) {
			r := cachemount.Request{ID: string(sharing), Sharing: sharing}
			c := start(t, dir, r, 0)
			theirs := c.path(t)
			ours := use(t, s, r)
			if same := ours.Path == theirs; same != (sharing == cachemount.Shared) {
				t.Errorf("%s and %s", ours.Path, theirs)
			}
			c.end(t)
			if err := ours.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLockedCountsRight(t *testing.T) {
	s, dir := open(t)
	r := cachemount.Request{ID: "n", Sharing: cachemount.Locked}
	const rounds = 60
	children := []*child{}
	for range 3 {
		children = append(children, start(t, dir, r, rounds))
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range rounds {
				if err := countUp(s, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range children {
		c.end(t)
	}
	m := use(t, s, r)
	if b, err := os.ReadFile(filepath.Join(m.Path, "n")); string(b) != strconv.Itoa(5*rounds) {
		t.Fatalf("counted %s, %v", b, err)
	}
}

func TestKilledHolderLetsGo(t *testing.T) {
	s, dir := open(t)
	r := cachemount.Request{ID: "x", Sharing: cachemount.Locked}
	c := start(t, dir, r, 0)
	path := c.path(t)
	if err := os.WriteFile(filepath.Join(path, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("x"); !errors.Is(err, cachemount.ErrInUse) {
		t.Fatalf("remove what another process uses: %v", err)
	}
	said := make(chan string, 9)
	r.Waiting = func(line string) {
		said <- line
		c.cmd.Process.Kill()
	}
	m := use(t, s, r)
	if _, err := os.Stat(filepath.Join(m.Path, "kept")); err != nil {
		t.Error(err)
	}
	if len(said) != 1 {
		t.Errorf("said %d lines", len(said))
	}
}

// TestKilledWhileFilling kills a process at random points of making a cache. Whoever comes next has all of it.
func TestKilledWhileFilling(t *testing.T) {
	s, dir := open(t)
	tree := t.TempDir()
	const files = 500
	for i := range files {
		if err := os.WriteFile(filepath.Join(tree, strconv.Itoa(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	interrupted := 0
	for i := range 8 {
		r := cachemount.Request{ID: strconv.Itoa(i), Seed: []string{tree}}
		c := start(t, dir, r, 0)
		draft(t, dir)
		time.Sleep(time.Duration(rand.IntN(15)) * time.Millisecond)
		c.kill()
		if i%2 == 0 {
			n, err := s.Sweep()
			if err != nil {
				t.Fatal(err)
			}
			interrupted += n
		}
		m := use(t, s, r)
		names, err := os.ReadDir(m.Path)
		if err != nil || len(names) != files {
			t.Fatalf("%d files, %v", len(names), err)
		}
		m.Close()
		if err := s.Remove(r.ID); err != nil {
			t.Fatal(err)
		}
	}
	if interrupted == 0 {
		t.Error("no process was killed in the middle")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// draft waits until the store has something that is being made.
func draft(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			return
		}
	}
	t.Fatal("nothing is being made")
}
