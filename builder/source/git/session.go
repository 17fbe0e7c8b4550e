package git

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"builder/builder/source/outbound"
)

// session is one request under way.
type session struct {
	req     Request
	git     string // the program
	remote  *remote
	final   *remote // where the remote's redirects lead; nil until reach
	auth    string  // value of the Authorization header for final
	home    string  // a private directory, and what git takes for the user's; all but empty
	lock    *os.File
	secrets []string
	foreign bool // the remote was named by a repository
	modules *modules
}

// open checks a request and prepares to run git.
func open(ctx context.Context, req Request) (*session, error) {
	r, err := parseRemote(req.Remote)
	if err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	s := &session{req: req, remote: r, auth: r.login, secrets: r.secrets}
	if err := req.check(); err != nil {
		return nil, s.explain("fetch", err)
	}
	switch {
	case req.Auth.Header != "":
		s.auth = req.Auth.Header
	case req.Auth.Token != "":
		s.auth = basic("x-access-token", req.Auth.Token)
	}
	if _, value, ok := strings.Cut(s.auth, " "); ok {
		s.secrets = append(s.secrets, value)
	}
	s.secrets = append(s.secrets, s.auth, req.Auth.Header, req.Auth.Token)
	s.secrets = slicesWithout(s.secrets, "")
	if strings.ContainsAny(s.auth, "\r\n\x00") {
		return nil, s.explain("fetch", errors.New("the credentials have a line break"))
	}
	if s.req.MaxBytes == 0 {
		s.req.MaxBytes = DefaultMaxBytes
	}
	if s.git, err = program(ctx); err == nil {
		err = s.makeHome()
	}
	if err != nil {
		s.close()
		return nil, s.explain("fetch", err)
	}
	return s, nil
}

func slicesWithout(in []string, not string) (out []string) {
	for _, s := range in {
		if s != not {
			out = append(out, s)
		}
	}
	return out
}

// explain names the remote in an error.
func (s *session) explain(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("git: %s %s: %w", verb, s.remote, err)
}

// homePrefix begins the names of private directories in the cache.
const homePrefix = "tmp-"

// makeHome makes the private directory, and takes away those of processes that died: the kernel has dropped their locks.
func (s *session) makeHome() error {
	if s.req.Cache == "" {
		return errors.New("no cache directory is given")
	}
	var err error
	if s.req.Cache, err = filepath.Abs(s.req.Cache); err != nil {
		return err
	}
	if err := os.MkdirAll(s.req.Cache, 0o700); err != nil {
		return err
	}
	all, err := lockFile(context.Background(), filepath.Join(s.req.Cache, "lock"))
	if err != nil {
		return err
	}
	defer all.Close()
	old, err := filepath.Glob(filepath.Join(s.req.Cache, homePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		sweep(dir)
	}
	if s.home, err = os.MkdirTemp(s.req.Cache, homePrefix); err != nil {
		return err
	}
	if s.lock, err = os.Open(s.home); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	return s.writeFiles()
}

// sweep removes a private directory that nobody holds.
func sweep(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		os.RemoveAll(dir)
	}
}

// writeFiles writes what git and ssh want as files.
func (s *session) writeFiles() error {
	if len(s.req.CA) > 0 {
		if block, _ := pem.Decode(s.req.CA); block == nil {
			return errors.New("the authorities have no certificate in PEM form")
		}
		if err := os.WriteFile(s.caFile(), append(systemCAs(), s.req.CA...), 0o600); err != nil {
			return err
		}
	}
	if s.remote.url.Scheme != "ssh" {
		return nil
	}
	if strings.ContainsAny(s.home+s.req.SSHAuthSock, "\"\\\n$%'") {
		return errors.New("the cache directory or the agent's socket has a name that ssh cannot be told")
	}
	if err := os.WriteFile(filepath.Join(s.home, "known_hosts"), s.req.KnownHosts, 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.sshFile(), []byte(s.sshConfig()), 0o600)
}

func (s *session) caFile() string  { return filepath.Join(s.home, "ca.pem") }
func (s *session) sshFile() string { return filepath.Join(s.home, "ssh_config") }

// sshConfig is all the configuration that ssh reads: keys from the agent alone, no questions, nothing forwarded.
func (s *session) sshConfig() string {
	agent, strict, hosts := "none", "no", "/dev/null"
	if s.req.SSHAuthSock != "" {
		agent = s.req.SSHAuthSock
	}
	if len(s.req.KnownHosts) > 0 {
		strict, hosts = "yes", filepath.Join(s.home, "known_hosts")
	}
	return fmt.Sprintf(`BatchMode yes
IdentityFile none
IdentityAgent "%s"
UserKnownHostsFile "%s"
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking %s
PasswordAuthentication no
ForwardAgent no
ClearAllForwardings yes
PermitLocalCommand no
ProxyCommand none
ConnectTimeout 30
ServerAliveInterval 20
ServerAliveCountMax 3
LogLevel ERROR
`, agent, hosts, strict)
}

// systemCAs are the system's authorities, from where distributions keep them.
func systemCAs() []byte {
	files := []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil {
			return append(data, '\n')
		}
	}
	return nil
}

// netEnv is what a git that talks to the remote sees beside the rest.
func (s *session) netEnv() []string {
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if v, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+v)
			}
		}
	}
	if s.remote.url.Scheme != "ssh" {
		return append(env, "GIT_SSH_COMMAND=false")
	}
	if s.req.SSHAuthSock != "" {
		env = append(env, "SSH_AUTH_SOCK="+s.req.SSHAuthSock)
	}
	return append(env, "GIT_SSH_VARIANT=ssh", "GIT_SSH_COMMAND=ssh -F '"+s.sshFile()+"'")
}

// netConfig is the configuration for the remote: the credentials, which the environment carries so that the process
// list does not.
func (s *session) netConfig() (config [][2]string) {
	if s.final == nil || !s.final.web() {
		return nil
	}
	if s.auth != "" {
		u := s.final.url
		config = append(config, [2]string{"http." + u.Scheme + "://" + u.Host + "/.extraHeader", "Authorization: " + s.auth})
	}
	if len(s.req.CA) > 0 {
		config = append(config, [2]string{"http.sslCAInfo", s.caFile()})
	}
	return config
}

// close takes the private directory away.
func (s *session) close() {
	if s.home != "" {
		os.RemoveAll(s.home)
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// local tells whether the remote is this machine by its name.
func (r *remote) local() bool { return outbound.IsLocal(r.url.Hostname()) }
