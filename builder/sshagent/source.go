// Package sshagent lends ssh keys to a command: a socket of its own for each, behind which it finds the user's agent, or
// one that has the keys of files.
//
// Through such a socket keys can be listed and used, and nothing else: not added, not removed, not locked, and no
// extension of the protocol is passed on.
//
// The package does not know Dockerfiles or mounts, nor how a command gets to see the socket.
package sshagent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"
)

// DefaultID is the id of a source that names none.
const DefaultID = "default"

// Source says what stands behind an id: one socket of an agent, or files of private keys. Without either it is the agent
// at $SSH_AUTH_SOCK.
type Source struct {
	ID    string
	Paths []string
}

// Parse reads an --ssh of docker buildx: default, or id, or id=socket, or id=key,key.
func Parse(text string) (Source, error) {
	id, list, found := strings.Cut(text, "=")
	s := Source{ID: id}
	if id == "" {
		s.ID = DefaultID
	}
	if !found {
		return s, nil
	}
	for path := range strings.SplitSeq(list, ",") {
		value, isRaw := strings.CutPrefix(path, "raw=")
		if !isRaw {
			s.Paths = append(s.Paths, path)
			continue
		}
		raw, err := strconv.ParseBool(value)
		if err != nil {
			return Source{}, fmt.Errorf("ssh %q: raw is neither true nor false", s.ID)
		}
		if raw {
			return Source{}, fmt.Errorf("ssh %q: raw=true is not supported: only listing and using keys is passed on", s.ID)
		}
	}
	if len(s.Paths) == 1 && s.Paths[0] == "" {
		s.Paths = nil
	}
	return s, nil
}

// Agents are the agents that a build was given, by id. They are safe for concurrent use; the zero value has none.
type Agents struct{ byID map[string]*Agent }

// Open finds all agents and reads all keys. It does not connect to an agent yet.
func Open(sources []Source) (Agents, error) {
	a := Agents{map[string]*Agent{}}
	for _, s := range sources {
		if a.byID[s.ID] != nil {
			return Agents{}, fmt.Errorf("ssh %q: the id is given twice", s.ID)
		}
		one, err := s.open()
		if err != nil {
			return Agents{}, fmt.Errorf("ssh %q: %w", s.ID, err)
		}
		a.byID[s.ID] = one
	}
	return a, nil
}

// Get returns the agent of an id; false if there is none.
func (a Agents) Get(id string) (*Agent, bool) {
	one, ok := a.byID[id]
	return one, ok
}

// Agent is one agent or a set of keys.
type Agent struct {
	id     string
	socket string // "" if there are keys
	// keys is a function because printing an Agent would otherwise print them.
	keys func() agent.ExtendedAgent
}

func (s Source) open() (*Agent, error) {
	paths := s.Paths
	if len(paths) == 0 {
		socket := os.Getenv("SSH_AUTH_SOCK")
		if socket == "" {
			return nil, errors.New("SSH_AUTH_SOCK is not set: start an ssh-agent, or name its socket or files of keys")
		}
		paths = []string{socket}
	}
	ring := agent.NewKeyring().(agent.ExtendedAgent)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode()&os.ModeSocket != 0 {
			if len(paths) > 1 {
				return nil, fmt.Errorf("%q is a socket, which cannot be combined with others or with keys", path)
			}
			return &Agent{id: s.ID, socket: path}, nil
		}
		key, err := readKey(path)
		if err != nil {
			return nil, err
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("key %q: %w", path, err)
		}
	}
	return &Agent{id: s.ID, keys: func() agent.ExtendedAgent { return ring }}, nil
}

// maxKeyFile is the size in bytes that a file of a key may have, as in BuildKit.
const maxKeyFile = 100 << 10

func readKey(path string) (any, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%q is neither a socket nor a file of a private key", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("the key %q needs a passphrase: add it to an ssh-agent and give that instead", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a private key: %w", path, err)
	}
	return key, nil
}
