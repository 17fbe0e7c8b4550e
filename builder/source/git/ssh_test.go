package git

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// key makes a key pair.
func key(t *testing.T) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer
}

// serveSSH serves the repositories below root to whoever has the key user, and returns its address.
func serveSSH(t *testing.T, root string, hostKey ssh.Signer, user ssh.PublicKey) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(user.Marshal()) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	config.AddHostKey(hostKey)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveConn(c, config, root)
		}
	}()
	return l.Addr().String()
}

func serveConn(c net.Conn, config *ssh.ServerConfig, root string) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			r.Reply(r.Type == "exec" || r.Type == "env", nil)
			if r.Type == "exec" {
				upload(ch, string(r.Payload[4:]), root)
				break
			}
		}
		ch.Close()
	}
}

// upload serves "git-upload-pack '/r.git'".
func upload(ch ssh.Channel, command, root string) {
	_, path, _ := strings.Cut(command, " ")
	cmd := exec.Command("git", "-c", "safe.directory=*", "upload-pack", filepath.Join(root, strings.Trim(path, "'")))
	in, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	cmd.Stdout = ch
	if cmd.Start() == nil {
		go func() { io.Copy(in, ch); in.Close() }()
		cmd.Wait()
	}
	ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
}

// serveAgent is an agent with one key.
func serveAgent(t *testing.T, private ed25519.PrivateKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { agent.ServeAgent(ring, c); c.Close() }()
		}
	}()
	return sock
}

func TestSSH(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is not installed")
	}
	root := t.TempDir()
	s := newSimple(t, root, "r")
	private, user := key(t)
	_, hostKey := key(t)
	_, otherKey := key(t)
	address := serveSSH(t, root, hostKey, user.PublicKey())
	sock := serveAgent(t, private)
	known := func(k ssh.Signer) []byte {
		return []byte(knownhosts.Line([]string{knownhosts.Normalize(address)}, k.PublicKey()) + "\n")
	}
	for name, c := range map[string]struct {
		sock  string
		known []byte
		want  string
	}{
		"any host":        {sock, nil, ""},
		"the known host":  {sock, known(hostKey), ""},
		"another's key":   {sock, known(otherKey), "Host key verification failed"},
		"an unknown host": {sock, []byte("# none\n"), "Host key verification failed"},
		"no agent":        {"", known(hostKey), "Permission denied"},
	} {
		req := request(t, "ssh://git@"+address+"/r.git", "main")
		req.SSHAuthSock, req.KnownHosts = c.sock, c.known
		res, err := Checkout(t.Context(), req)
		if c.want == "" && (err != nil || res.Commit != s.head) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %+v %v", name, res, err)
		}
	}
}
