package sshagent_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/builder/sshagent"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]sshagent.Source{
		"default":          {ID: "default"},
		"":                 {ID: "default"},
		"x":                {ID: "x"},
		"x=":               {ID: "x"},
		"x=/run/s":         {ID: "x", Paths: []string{"/run/s"}},
		"x=a,b":            {ID: "x", Paths: []string{"a", "b"}},
		"x=a=b":            {ID: "x", Paths: []string{"a=b"}},
		"x=raw=false,/s":   {ID: "x", Paths: []string{"/s"}},
		"=/s":              {ID: "default", Paths: []string{"/s"}},
		"../../etc=/run/s": {ID: "../../etc", Paths: []string{"/run/s"}},
	} {
		if got, err := sshagent.Parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x=raw=true,/s", "x=/s,raw=1", "x=raw=maybe,/s"} {
		if got, err := sshagent.Parse(text); err == nil {
			t.Errorf("%s is %+v", text, got)
		}
	}
}

// keyFile writes a new private key and returns the name of its file and the public key.
func keyFile(t testing.TB, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	must(t, err)
	name := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(name, pem.EncodeToMemory(block), 0o600))
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	return name, key
}

// listen opens a source and makes a socket of it.
func listen(t testing.TB, s sshagent.Source, access sshagent.Access) *sshagent.Socket {
	t.Helper()
	a, err := sshagent.Open([]sshagent.Source{s})
	must(t, err)
	one, ok := a.Get(s.ID)
	if !ok {
		t.Fatal("not there")
	}
	socket, err := one.Listen(t.TempDir(), access)
	must(t, err)
	t.Cleanup(func() { socket.Close() })
	return socket
}

// connect connects to a socket, whose path may be too long to do it directly.
func connect(t testing.TB, path string) net.Conn {
	t.Helper()
	dir, err := os.Open(filepath.Dir(path))
	must(t, err)
	defer dir.Close()
	conn, err := net.Dial("unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+filepath.Base(path))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// recorder is an agent that notes whether anybody tried to change it.
type recorder struct {
	agent.ExtendedAgent
	touched atomic.Bool
}

func (r *recorder) touch() error { r.touched.Store(true); return nil }

func (r *recorder) Add(agent.AddedKey) error                 { return r.touch() }
func (r *recorder) Remove(ssh.PublicKey) error               { return r.touch() }
func (r *recorder) RemoveAll() error                         { return r.touch() }
func (r *recorder) Lock([]byte) error                        { return r.touch() }
func (r *recorder) Unlock([]byte) error                      { return r.touch() }
func (r *recorder) Extension(string, []byte) ([]byte, error) { return nil, r.touch() }

// user is the user's own agent at a socket, which holds an RSA key.
func user(t testing.TB) (string, *recorder) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	ring := agent.NewKeyring()
	must(t, ring.Add(agent.AddedKey{PrivateKey: private, Comment: "mine"}))
	r := &recorder{ExtendedAgent: ring.(agent.ExtendedAgent)}
	dir, err := os.MkdirTemp("", "sshagent")
	must(t, err)
	path := filepath.Join(dir, "user")
	l, err := net.Listen("unix", path)
	must(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				agent.ServeAgent(r, conn)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
		os.RemoveAll(dir)
	})
	return path, r
}

// checkKey lists and uses the one key behind a connection.
func checkKey(t *testing.T, conn net.Conn, flags agent.SignatureFlags, format string) {
	t.Helper()
	c := agent.NewClient(conn)
	keys, err := c.List()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	public, err := ssh.ParsePublicKey(keys[0].Blob)
	must(t, err)
	signature, err := c.SignWithFlags(public, []byte("data"), flags)
	must(t, err)
	if signature.Format != format {
		t.Errorf("signed by %s, want %s", signature.Format, format)
	}
	must(t, public.Verify([]byte("data"), signature))
}

func TestKeysFromFiles(t *testing.T) {
	name, _ := keyFile(t, "")
	s := listen(t, sshagent.Source{ID: "x", Paths: []string{name}}, sshagent.Access{})
	checkKey(t, connect(t, s.Path), 0, ssh.KeyAlgoED25519)
	other, _ := keyFile(t, "")
	s = listen(t, sshagent.Source{ID: "x", Paths: []string{name, other}}, sshagent.Access{})
	if keys, err := agent.NewClient(connect(t, s.Path)).List(); err != nil || len(keys) != 2 {
		t.Errorf("keys %v, %v", keys, err)
	}
}

func TestForwarding(t *testing.T) {
	path, _ := user(t)
	t.Setenv("SSH_AUTH_SOCK", path)
	for _, s := range []sshagent.Source{{ID: "default"}, {ID: "x", Paths: []string{path}}} {
		socket := listen(t, s, sshagent.Access{})
		checkKey(t, connect(t, socket.Path), agent.SignatureFlagRsaSha512, ssh.KeyAlgoRSASHA512)
		checkKey(t, connect(t, socket.Path), agent.SignatureFlagRsaSha256, ssh.KeyAlgoRSASHA256)
	}
}

func TestOnlyListingAndUsing(t *testing.T) {
	path, upstream := user(t)
	name, _ := keyFile(t, "")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	_, stranger := keyFile(t, "")
	for _, p := range []string{path, name} {
		c := agent.NewClient(connect(t, listen(t, sshagent.Source{ID: "x", Paths: []string{p}}, sshagent.Access{}).Path))
		keys, err := c.List()
		must(t, err)
		_, signErr := c.Sign(stranger, []byte("data"))
		_, extensionErr := c.Extension("session-bind@openssh.com", []byte("x"))
		for what, err := range map[string]error{
			"add": c.Add(agent.AddedKey{PrivateKey: private}), "remove": c.Remove(keys[0]), "remove all": c.RemoveAll(),
			"lock": c.Lock([]byte("x")), "unlock": c.Unlock([]byte("x")), "extension": extensionErr,
			"sign with another key": signErr,
		} {
			if err == nil {
				t.Errorf("%s is allowed", what)
			}
		}
		if again, err := c.List(); err != nil || !reflect.DeepEqual(again, keys) {
			t.Errorf("keys afterwards: %v, %v", again, err)
		}
	}
	if upstream.touched.Load() {
		t.Error("the user's agent was asked to change")
	}
}

// TestHostileMessages sends what is no request. Each is answered by a failure or the end of the connection, and the next
// connection is served.
func TestHostileMessages(t *testing.T) {
	name, _ := keyFile(t, "")
	s := listen(t, sshagent.Source{ID: "x", Paths: []string{name}}, sshagent.Access{})
	for _, message := range []string{
		"\x00\x00\x00\x00", "\xff\xff\xff\xff", "\x00\x04\x00\x01", "\x00\x00\x00\x01\x00", "\x00\x00\x00\x01\x0d",
		"\x00\x00\x00\x05\x0d\xff\xff\xff\xff", "\x00\x00\x00\x01\x1b", "\x00\x00\x00\x01\x13",
		"\x00\x00\x00\x0d\x0d\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x09\x0b",
	} {
		conn := connect(t, s.Path).(*net.UnixConn)
		_, err := io.WriteString(conn, message)
		must(t, err)
		must(t, conn.CloseWrite())
		reply, _ := io.ReadAll(conn)
		if text := string(reply); text != "" && text != "\x00\x00\x00\x01\x05" {
			t.Errorf("%q is answered by %q", message, text)
		}
	}
	checkKey(t, connect(t, s.Path), 0, ssh.KeyAlgoED25519)
}

func TestModeOwnerAndPlace(t *testing.T) {
	name, _ := keyFile(t, "")
	a, err := sshagent.Open([]sshagent.Source{{ID: "x", Paths: []string{name}}})
	must(t, err)
	one, _ := a.Get("x")
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	must(t, os.MkdirAll(dir, 0o755))
	access := sshagent.Access{Mode: 0o620, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if os.Getuid() == 0 {
		access.UID, access.GID = 12, 34
	}
	s, err := one.Listen(dir, access)
	must(t, err)
	defer s.Close()
	var st unix.Stat_t
	must(t, unix.Lstat(s.Path, &st))
	if st.Mode != unix.S_IFSOCK|0o620 || st.Uid != access.UID || st.Gid != access.GID {
		t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	must(t, unix.Lstat(filepath.Dir(s.Path), &st))
	if st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("its directory has mode %o", st.Mode)
	}
	checkKey(t, connect(t, s.Path), 0, ssh.KeyAlgoED25519)
	must(t, s.Close())
	must(t, s.Close())
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := one.Listen(filepath.Join(dir, "missing"), access); err == nil {
		t.Error("listens nowhere")
	}
}

// TestCloseEndsConnections closes a socket while commands are connected and one waits for the user's agent.
func TestCloseEndsConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	silent, err := net.Listen("unix", path)
	must(t, err)
	defer silent.Close()
	s := listen(t, sshagent.Source{ID: "x", Paths: []string{path}}, sshagent.Access{})
	var conns []net.Conn
	for range 40 { // more than are served at a time
		conn := connect(t, s.Path)
		_, err := conn.Write([]byte{0, 0, 0, 1, 11})
		must(t, err)
		conns = append(conns, conn)
	}
	began := time.Now()
	must(t, s.Close())
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("closing took %v", took)
	}
	for _, conn := range conns {
		must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("still connected")
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	path, _ := user(t)
	s := listen(t, sshagent.Source{ID: "x", Paths: []string{path}}, sshagent.Access{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		conn := connect(t, s.Path)
		wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			if keys, err := agent.NewClient(conn).List(); err != nil || len(keys) != 1 {
				t.Errorf("%v, %v", keys, err)
			}
		})
	}
	wg.Wait()
}

func TestOpenFails(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	socket, _ := user(t)
	locked, _ := keyFile(t, "passphrase")
	key, _ := keyFile(t, "")
	text := filepath.Join(t.TempDir(), "text")
	must(t, os.WriteFile(text, []byte("hello"), 0o600))
	for want, sources := range map[string][]sshagent.Source{
		"SSH_AUTH_SOCK":        {{ID: "default"}},
		"passphrase":           {{ID: "x", Paths: []string{locked}}},
		"combined":             {{ID: "x", Paths: []string{key, socket}}},
		"combined with others": {{ID: "x", Paths: []string{socket, socket}}},
		"not a private key":    {{ID: "x", Paths: []string{text}}},
		"neither a socket nor": {{ID: "x", Paths: []string{t.TempDir()}}},
		"a file of a private":  {{ID: "x", Paths: []string{"/dev/zero"}}},
		"no such file":         {{ID: "x", Paths: []string{"/nonexistent"}}},
		"given twice":          {{ID: "x", Paths: []string{key}}, {ID: "x", Paths: []string{key}}},
	} {
		if _, err := sshagent.Open(sources); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if _, ok := (sshagent.Agents{}).Get("x"); ok {
		t.Error("the zero value has an agent")
	}
}

func TestDeadAgentIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	a, err := sshagent.Open([]sshagent.Source{{ID: "x", Paths: []string{path}}})
	must(t, err)
	one, _ := a.Get("x")
	dir := t.TempDir()
	if _, err := one.Listen(dir, sshagent.Access{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	seed := []byte("0123456789abcdef0123456789abcdef")
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(seed), "")
	must(t, err)
	name := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(name, pem.EncodeToMemory(block), 0o600))
	a, err := sshagent.Open([]sshagent.Source{{ID: "x", Paths: []string{name}}})
	must(t, err)
	one, _ := a.Get("x")
	for _, v := range []any{a, one, *one, struct{ hidden sshagent.Agents }{a}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%c"} {
			text := fmt.Sprintf(verb, v)
			for _, form := range []string{"%s", "%x", "%d", "%#v"} {
				if strings.Contains(text, strings.Trim(fmt.Sprintf(form, seed[:8]), "[]")) {
					t.Errorf("%s prints %s", verb, text)
				}
			}
		}
	}
}
