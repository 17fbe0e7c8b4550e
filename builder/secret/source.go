// Package secret holds values that a build may use and that nothing of it may keep: it reads them, hides them in what
// commands print and finds them where they should not be.
//
// No value is ever part of an error, and none is shown by printing what the package returns, whatever the verb.
//
// The package does not know Dockerfiles, commands or mounts, nor how a value reaches a command.
package secret

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxSize is how many bytes a value may have, as in BuildKit.
const MaxSize = 500 << 10

// Source says where the value of a secret is. If both Env and File are set, Env counts; if neither is, it is the
// environment variable called ID where there is one, and the file called ID otherwise.
type Source struct {
	ID   string
	File string
	Env  string
}

// Parse reads a --secret of docker buildx: fields id=, src= or source=, env=, type=file or env, separated as CSV.
// With type=env, src= names a variable. Errors do not repeat the text, in which somebody may have put a value.
func Parse(text string) (Source, error) {
	var s Source
	fields, err := csvFields(text)
	if err != nil {
		return s, errors.New("secret: the fields are not valid CSV")
	}
	kind := ""
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		if !found {
			return s, errors.New("secret: each field must be key=value, as in id=mysecret,src=file")
		}
		switch strings.ToLower(key) {
		case "id":
			s.ID = value
		case "src", "source":
			s.File = value
		case "env":
			s.Env = value
		case "type":
			kind = value
		default:
			return s, errors.New("secret: the fields are id, src, env and type; there is an unknown one")
		}
	}
	switch {
	case kind != "" && kind != "file" && kind != "env":
		return s, errors.New("secret: the type must be file or env")
	case s.ID == "":
		return s, errors.New("secret: the field id is missing")
	case kind == "env" && s.Env == "":
		s.Env, s.File = s.File, ""
	}
	return s, nil
}

func csvFields(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	fields, err := r.Read()
	if err != nil {
		return nil, err
	}
	if _, err := r.Read(); err != io.EOF {
		return nil, errors.New("more than one line")
	}
	return fields, nil
}

// read returns the value.
func (s Source) read() ([]byte, error) {
	if s.Env != "" {
		return s.variable(s.Env)
	}
	if s.File != "" {
		return s.file(s.File)
	}
	if _, set := os.LookupEnv(s.ID); set {
		return s.variable(s.ID)
	}
	value, err := s.file(s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is neither an environment variable nor a file %q", s.ID)
	}
	return value, err
}

func (s Source) variable(name string) ([]byte, error) {
	value, set := os.LookupEnv(name)
	if !set {
		return nil, fmt.Errorf("the environment variable %q is not set", name)
	}
	if len(value) > MaxSize {
		return nil, tooLarge("environment variable", name)
	}
	return []byte(value), nil
}

func (s Source) file(name string) ([]byte, error) {
	// Not to wait for the other end if it is a pipe.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	value, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(value) > MaxSize {
		return nil, tooLarge("file", name)
	}
	return value, nil
}

func tooLarge(what, name string) error {
	return fmt.Errorf("the %s %q is larger than %d KiB", what, name, MaxSize>>10)
}
