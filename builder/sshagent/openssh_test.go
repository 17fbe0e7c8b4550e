package sshagent_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/builder/sshagent"
)

// tool runs a program of OpenSSH with the agent at socket, or skips the test when it is not installed.
func tool(t *testing.T, socket, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed")
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenSSH has OpenSSH's programs at both ends: ssh-agent as the user's agent, ssh-add and ssh-keygen as commands.
func TestOpenSSH(t *testing.T) {
	dir, err := os.MkdirTemp("", "openssh") // a short path, as ssh-add connects by it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, real := filepath.Join(dir, "key"), filepath.Join(dir, "real")
	if out, err := tool(t, "", "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-C", "mine", "-f", key); err != nil {
		t.Fatal(out, err)
	}
	startAgent(t, real)
	if out, err := tool(t, real, "ssh-add", key); err != nil {
		t.Fatal(out, err)
	}
	want, err := tool(t, real, "ssh-add", "-L")
	must(t, err)
	must(t, os.Rename(key, filepath.Join(dir, "away"))) // from here on only an agent has it

	for _, path := range []string{real, filepath.Join(dir, "away")} {
		a, err := sshagent.Open([]sshagent.Source{{ID: "x", Paths: []string{path}}})
		must(t, err)
		one, _ := a.Get("x")
		s, err := one.Listen(dir, sshagent.Access{})
		must(t, err)
		got, err := tool(t, s.Path, "ssh-add", "-L")
		if err != nil || strings.Fields(got)[1] != strings.Fields(want)[1] {
			t.Errorf("ssh-add -L: %s, %v", got, err)
		}
		for _, args := range [][]string{{"-D"}, {"-d", key + ".pub"}, {filepath.Join(dir, "away")}, {"-X"}} {
			if out, err := tool(t, s.Path, "ssh-add", args...); err == nil {
				t.Errorf("ssh-add %v: %s", args, out)
			}
		}
		signAndVerify(t, dir, s.Path, key+".pub")
		must(t, s.Close())
	}
	if after, err := tool(t, real, "ssh-add", "-L"); err != nil || after != want {
		t.Errorf("the user's agent afterwards: %s, %v", after, err)
	}
}

// startAgent runs an ssh-agent at socket until the test ends.
func startAgent(t *testing.T, socket string) {
	t.Helper()
	path, err := exec.LookPath("ssh-agent")
	if err != nil {
		t.Skip("ssh-agent is not installed")
	}
	cmd := exec.Command(path, "-D", "-a", socket)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("unix", socket); err == nil { // the socket is there before anybody listens
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("ssh-agent does not start")
}

// signAndVerify signs with the key of the agent at socket, and checks the signature without the agent.
func signAndVerify(t *testing.T, dir, socket, public string) {
	t.Helper()
	data := filepath.Join(dir, "data")
	must(t, os.WriteFile(data, []byte("data"), 0o600))
	defer os.Remove(data + ".sig")
	if out, err := tool(t, socket, "ssh-keygen", "-Y", "sign", "-f", public, "-n", "test", data); err != nil {
		t.Errorf("sign: %s, %v", out, err)
		return
	}
	cmd := exec.Command("ssh-keygen", "-Y", "check-novalidate", "-n", "test", "-s", data+".sig")
	cmd.Stdin = bytes.NewReader([]byte("data"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("verify: %s, %v", out, err)
	}
}
