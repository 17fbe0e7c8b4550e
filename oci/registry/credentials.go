package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"

	"builder/oci/name"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// tokenUser is the user name that marks a password as an identity token.
const tokenUser = "<token>"

// helperName is what follows docker-credential- in a helper's name; anything
// else could be a path.
var helperName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// config is Docker's config.json as far as it chooses where credentials lie.
type config struct {
	path  string
	store credentials.Store

	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// openConfig reads the configuration; a missing one is empty.
func openConfig(dir string) (*config, error) {
	if dir == "" {
		dir = os.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return &config{}, nil // no home, no credentials
		}
		dir = filepath.Join(home, ".docker")
	}
	c := &config{path: filepath.Join(dir, "config.json")}
	data, err := os.ReadFile(c.path)
	if err == nil {
		err = json.Unmarshal(data, c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", c.path, err)
	}
	c.store, err = credentials.NewStore(c.path, credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.path, err)
	}
	return c, nil
}

// helper is the credential helper for a server, "" if the file itself holds
// the credentials.
func (c *config) helper(server string) (string, error) {
	helper := c.CredHelpers[server]
	if helper == "" {
		helper = c.CredsStore
	}
	if helper != "" && !helperName.MatchString(helper) {
		return "", fmt.Errorf("%s: credential helper %.100q is not a helper's name", c.path, helper)
	}
	return helper, nil
}

// credentials answers for one host and for nobody else. A helper that fails is an
// error: going on without credentials could end at another registry's image of
// the same name.
func (r *Repo) credentials(c *config, host string) auth.CredentialFunc {
	if given := r.o.Credential; given != nil && host == r.host {
		return auth.StaticCredential(host, given.auth())
	}
	server := credentials.ServerAddressFromHostname(host)
	return func(ctx context.Context, asked string) (auth.Credential, error) {
		if asked != host || c.store == nil {
			return auth.EmptyCredential, nil
		}
		helper, err := c.helper(server)
		if err != nil {
			return auth.EmptyCredential, err
		}
		cred, err := c.store.Get(ctx, server)
		if err != nil && helper != "" {
			err = fmt.Errorf("credential helper %s: %w", helper, err)
		}
		return cred, err
	}
}

// auth is the form that oras takes.
func (c Credential) auth() auth.Credential {
	if c.Username == tokenUser {
		return auth.Credential{RefreshToken: c.Password}
	}
	return auth.Credential{Username: c.Username, Password: c.Password}
}

// Stored tells where Login put a credential.
type Stored struct {
	Path  string // the configuration file
	Plain bool   // the file itself holds it, readable by whoever reads the file
}

// Login checks a credential with a registry (HOST or HOST:PORT; docker.io for
// Docker Hub) and keeps it as docker login does: with the configured helper, or
// else in the configuration file.
func Login(ctx context.Context, host string, cred Credential, o Options) (Stored, error) {
	r, err := registryOnly(host, o)
	if err != nil {
		return Stored{}, err
	}
	defer r.Close()
	r.o.Credential = &cred
	c, err := openConfig(o.ConfigDir)
	if err != nil {
		return Stored{}, err
	}
	if c.store == nil {
		return Stored{}, fmt.Errorf("log in to %s: no home directory to keep the credential in; set DOCKER_CONFIG", host)
	}
	server := credentials.ServerAddressFromHostname(r.host)
	helper, err := c.helper(server)
	if err != nil {
		return Stored{}, err
	}
	if err := r.ping(ctx); err != nil {
		return Stored{}, r.explain("log in to", "", err)
	}
	if err := c.store.Put(ctx, server, cred.auth()); err != nil {
		return Stored{}, fmt.Errorf("log in to %s: keep the credential: %w", host, err)
	}
	return Stored{Path: c.path, Plain: helper == ""}, nil
}

// Logout forgets a registry's credential.
func Logout(ctx context.Context, host string, o Options) error {
	r, err := registryOnly(host, o)
	if err != nil {
		return err
	}
	c, err := openConfig(o.ConfigDir)
	if err != nil || c.store == nil {
		return err
	}
	server := credentials.ServerAddressFromHostname(r.host)
	if _, err := c.helper(server); err != nil {
		return err
	}
	if err := c.store.Delete(ctx, server); err != nil {
		return fmt.Errorf("log out of %s: %w", host, err)
	}
	return nil
}

// registryOnly is a Repo for a registry of which no repository is meant.
func registryOnly(host string, o Options) (*Repo, error) {
	switch host {
	case "", "docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io":
		host = "docker.io"
	}
	if err := (registry.Reference{Registry: host}).ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("registry %.200q: want HOST or HOST:PORT", host)
	}
	return Repository(name.Ref{Domain: host}, o), nil
}

// ping asks the registry itself for the API's base (distribution-spec, end-1).
func (r *Repo) ping(ctx context.Context) error {
	e, err := r.itself()
	if err != nil {
		return err
	}
	req, err := e.request(ctx, http.MethodGet, "", nil, nil)
	if err != nil {
		return err
	}
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
