package git

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"builder/builder/source/outbound"
)

// remote is where a repository is.
type remote struct {
	// url has scheme, host, port and path; of the form user@host:path too, for which scp is set. Credentials are taken
	// out; the user name of ssh stays.
	url *url.URL
	scp bool
	// login is the value of an Authorization header made of the credentials that the URL had.
	login string
	// secrets must appear nowhere.
	secrets []string
}

// schemes are the protocols that may be spoken. Not among them: file, ext and whatever helper is installed.
var schemes = map[string]bool{"https": true, "http": true, "git": true, "ssh": true}

// scpForm is BuildKit's idea of user@host:path.
var scpForm = regexp.MustCompile(`^([a-zA-Z0-9_][a-zA-Z0-9_-]*)@([a-zA-Z0-9][a-zA-Z0-9.-]*):([^:].*)$`)

// hostForm keeps what looks like an option, or worse, from ssh and from git.
var hostForm = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9._-]*[a-zA-Z0-9_.])?|[0-9a-fA-F:.]+)$`)

// parseRemote reads a remote. Its errors do not repeat what may be a password.
func parseRemote(raw string) (*remote, error) {
	if strings.ContainsFunc(raw, unicode.IsControl) || strings.HasPrefix(raw, "-") {
		return nil, errors.New("the remote is no URL")
	}
	if m := scpForm.FindStringSubmatch(raw); m != nil && !strings.Contains(raw, "://") {
		r := &remote{url: &url.URL{Scheme: "ssh", User: url.User(m[1]), Host: m[2], Path: m[3]}, scp: true}
		return r, r.checkPath()
	}
	if strings.HasPrefix(raw, "github.com/") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the remote is no URL that can be read")
	}
	switch {
	case !schemes[u.Scheme] || u.Opaque != "":
		return nil, fmt.Errorf("remotes of scheme %q are refused: https, http, git and ssh are known", u.Scheme)
	case !hostForm.MatchString(u.Hostname()):
		return nil, fmt.Errorf("the remote's host %q is none", u.Hostname())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the remote has a query or a fragment")
	}
	r := &remote{url: u}
	r.takeCredentials()
	return r, r.checkPath()
}

// takeCredentials takes the credentials out of the URL. Those of ssh are a user name.
func (r *remote) takeCredentials() {
	user := r.url.User
	r.url.User = nil
	if user == nil {
		return
	}
	name := user.Username()
	password, has := user.Password()
	if has {
		r.secrets = append(r.secrets, password)
	}
	switch r.url.Scheme {
	case "http", "https":
		if !has {
			r.secrets = append(r.secrets, name) // a user name alone is often a token
		}
		r.login = basic(name, password)
	case "ssh":
		r.url.User = url.User(name)
	}
}

func (r *remote) checkPath() error {
	if strings.ContainsFunc(r.url.Path, unicode.IsControl) {
		return errors.New("the remote's path has a control character")
	}
	if strings.HasPrefix(strings.TrimLeft(r.url.Path, "/"), "-") {
		return fmt.Errorf("the remote's path %q begins like an option", r.url.Path)
	}
	if u := r.url.User; u != nil && strings.HasPrefix(u.Username(), "-") {
		return errors.New("the remote's user begins like an option")
	}
	return nil
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// String is the remote as git is given it and as it may be shown: without credentials.
func (r *remote) String() string {
	if r.scp {
		return r.url.User.Username() + "@" + r.url.Host + ":" + r.url.Path
	}
	return r.url.String()
}

// web tells whether the remote is asked over HTTP.
func (r *remote) web() bool { return r.url.Scheme == "http" || r.url.Scheme == "https" }

// relative resolves the URL of a submodule that is one relative to its parent's, as git does.
func (r *remote) relative(to string) (string, error) {
	base := strings.TrimRight(r.url.Path, "/")
	for {
		rest, up := strings.CutPrefix(to, "../")
		if !up {
			var here bool
			if rest, here = strings.CutPrefix(to, "./"); !here {
				break
			}
		}
		to = rest
		if !up {
			continue
		}
		cut := strings.LastIndexByte(base, '/')
		if cut < 0 && base == "" {
			return "", errors.New("the relative URL leads above the server's root")
		}
		base = base[:max(cut, 0)]
	}
	up := *r
	u := *r.url
	up.url, up.secrets = &u, nil
	u.Path, u.RawPath = base+"/"+to, ""
	if r.scp && base == "" {
		u.Path = to
	}
	return up.String(), nil
}

// sameServer tells whether credentials for one are meant for the other.
func (r *remote) sameServer(other *remote) bool { return outbound.SameServer(r.url, other.url) }
