package engine

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// DefaultHost is where an engine listens when nobody says otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// endpoint is where an engine listens.
type endpoint struct {
	host string // as configured
	from string // what configured it, for messages
	// network and address are as net.Dial has them.
	network, address string
	tls              *tls.Config // nil: plain
}

// find reads the endpoint as docker does: DOCKER_HOST, else the context that DOCKER_CONTEXT
// or Docker's configuration names, else DefaultHost.
func find() (endpoint, error) {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		certs := ""
		if os.Getenv("DOCKER_TLS_VERIFY") != "" {
			certs = os.Getenv("DOCKER_CERT_PATH")
			if certs == "" {
				certs = configDir()
			}
		}
		return parse(host, "$DOCKER_HOST", certs)
	}
	name, from, err := currentContext()
	if err != nil || name == "" || name == "default" {
		return endpoint{host: DefaultHost, from: "the default", network: "unix", address: "/var/run/docker.sock"}, err
	}
	return contextEndpoint(name, from)
}

// configDir is the directory of Docker's configuration.
func configDir() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home, _ := os.UserHomeDir() // without one the directory is not there, like any other
	return filepath.Join(home, ".docker")
}

// currentContext is the name of the context in use, "" for none, and what says so.
func currentContext() (name, from string, err error) {
	if name := os.Getenv("DOCKER_CONTEXT"); name != "" {
		return name, "$DOCKER_CONTEXT", nil
	}
	path := filepath.Join(configDir(), "config.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	var config struct{ CurrentContext string }
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		return "", "", fmt.Errorf("read Docker's configuration: %s: %w", path, err)
	}
	return config.CurrentContext, path, nil
}

// contextEndpoint reads a context as docker keeps it, by the sha256 of its name.
func contextEndpoint(name, from string) (endpoint, error) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	contexts := filepath.Join(configDir(), "contexts")
	b, err := os.ReadFile(filepath.Join(contexts, "meta", id, "meta.json"))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if err == nil {
		err = json.Unmarshal(b, &meta)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("docker context %q (%s): %w", name, from, err)
	}
	certs := filepath.Join(contexts, "tls", id, "docker")
	if _, err := os.Stat(certs); err != nil {
		certs = ""
	}
	return parse(meta.Endpoints["docker"].Host, fmt.Sprintf("docker context %q", name), certs)
}

// parse reads a host: unix:///PATH or tcp://HOST:PORT. certs is a directory with ca.pem, cert.pem
// and key.pem, "" for a connection without TLS.
func parse(host, from, certs string) (endpoint, error) {
	e := endpoint{host: host, from: from}
	u, err := url.Parse(host)
	if err != nil {
		return e, fmt.Errorf("docker engine %s (%s): %w", host, from, err)
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		e.network, e.address = "unix", u.Host+u.Path
		return e, nil
	case u.Scheme == "tcp" && u.Host != "":
		e.network, e.address = "tcp", u.Host
		if u.Port() == "" {
			e.address = net.JoinHostPort(u.Hostname(), "2375")
		}
		e.tls, err = readCerts(certs, u.Hostname())
		return e, err
	}
	return e, fmt.Errorf("docker engine %s (%s): only unix:///PATH and tcp://HOST:PORT can be reached; "+
		"for another machine forward its socket: ssh -L ./docker.sock:/var/run/docker.sock HOST", host, from)
}

func readCerts(dir, server string) (*tls.Config, error) {
	if dir == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: server}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err == nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s: no certificate in PEM form", filepath.Join(dir, "ca.pem"))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err == nil {
		config.Certificates = []tls.Certificate{cert}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("client certificate in %s: %w", dir, err)
	}
	return config, nil
}

// hint says what to do about a connection that failed.
func (e *endpoint) hint(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such socket; is Docker running? DOCKER_HOST says where it listens"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied; the group docker may use the socket"
	}
	return strings.TrimPrefix(err.Error(), "dial "+e.network+" "+e.address+": ")
}
