package hosts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// TLS is what the certificate directories hold for a host (HOST or HOST:PORT):
// every *.crt as an authority, every *.cert with its *.key as a certificate to
// show, as Docker has them, and what a hosts.toml says of the registry itself.
func (c *Config) TLS(host string) (TLS, error) {
	var all TLS
	for _, dir := range c.hostDirs(host) {
		t, err := readCertDir(dir)
		if err != nil {
			return TLS{}, err
		}
		all.add(t)
	}
	return all, nil
}

// hostDirs are the directories that may speak of a host. containerd writes a
// port as _PORT_ where a colon cannot stand.
func (c *Config) hostDirs(host string) (dirs []string) {
	if !plainName(host) {
		return nil
	}
	names := []string{host}
	if name, port, ok := strings.Cut(host, ":"); ok && !strings.Contains(port, ":") {
		names = []string{name + "_" + port + "_", host}
	}
	for _, root := range c.dirs {
		for _, name := range names {
			dirs = append(dirs, filepath.Join(root, name))
		}
	}
	return dirs
}

// plainName reports whether a host can be the name of a directory.
func plainName(host string) bool {
	return host != "" && host[0] != '.' && !strings.ContainsAny(host, "/\x00")
}

// readCertDir reads one host's directory. One with a hosts.toml has its
// certificates named there.
func readCertDir(dir string) (TLS, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return TLS{}, nil
	}
	if err != nil {
		return TLS{}, fmt.Errorf("certificates: %w", err)
	}
	var t TLS
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == hostsFile }) {
		return t, nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			err = t.readCA(path)
		case ".cert":
			err = t.readPair(path, strings.TrimSuffix(path, ".cert")+".key")
		}
		if err != nil {
			return TLS{}, err
		}
	}
	return t, nil
}

// readCA adds the authorities of a PEM file.
func (t *TLS) readCA(path string) error {
	pem, err := read(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		err = fmt.Errorf("read %s: no certificate in PEM form", path)
	}
	if err == nil {
		t.CA = append(t.CA, pem)
	}
	return err
}

// readPair adds a client certificate and its key; both may be one file.
func (t *TLS) readPair(cert, key string) error {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("client certificate %s: %w", cert, err)
	}
	t.Certificates = append(t.Certificates, pair)
	return nil
}
