package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"builder/builder/secret"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for text, want := range map[string]secret.Source{
		"id=a":                        {ID: "a"},
		"id=a,src=f":                  {ID: "a", File: "f"},
		"id=a,source=f,type=file":     {ID: "a", File: "f"},
		"ID=a,SRC=f":                  {ID: "a", File: "f"},
		"id=a,env=V":                  {ID: "a", Env: "V"},
		"type=env,id=a":               {ID: "a"},
		"type=env,id=a,src=V":         {ID: "a", Env: "V"},
		"type=env,id=a,src=f,env=V":   {ID: "a", File: "f", Env: "V"},
		`id=a,"src=with,comma"`:       {ID: "a", File: "with,comma"},
		"src=a=b,id=../../etc/passwd": {ID: "../../etc/passwd", File: "a=b"},
	} {
		if got, err := secret.Parse(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "hunter2", "src=hunter2", "id=a,hunter2", "id=a,hunter2=b", "id=a,type=hunter2", "id=,src=hunter2",
		"id=a,\"hunter2", "id=a\nid=hunter2",
	} {
		if got, err := secret.Parse(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error repeats it: %v", text, err)
		}
	}
}

// file makes a file and returns its name.
func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRead(t *testing.T) {
	t.Setenv("SECRET_VAR", "from env")
	t.Setenv("SECRET_EMPTY", "")
	name := file(t, "from file\n")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	s, err := secret.Read([]secret.Source{
		{ID: "file", File: name}, {ID: "link", File: link}, {ID: "env", Env: "SECRET_VAR"}, {ID: "both", Env: "SECRET_VAR", File: "gone"},
		{ID: "SECRET_VAR"}, {ID: "SECRET_EMPTY"}, {ID: name}, {ID: "twice", File: name}, {ID: "twice", Env: "SECRET_VAR"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("later"), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"file": "from file\n", "link": "from file\n", "env": "from env", "both": "from env", "SECRET_VAR": "from env",
		"SECRET_EMPTY": "", name: "from file\n", "twice": "from env",
	} {
		got, ok := s.Get(id)
		if !ok || string(got) != want {
			t.Errorf("%s is %q, %v", id, got, ok)
		}
		clear(got)
		if again, _ := s.Get(id); string(again) != want {
			t.Errorf("%s can be changed", id)
		}
	}
	if _, ok := s.Get("none"); ok {
		t.Error("a secret that was not listed is there")
	}
	if _, ok := (secret.Secrets{}).Get("x"); ok {
		t.Error("the zero value has a secret")
	}
}

func TestReadFailsAtOnce(t *testing.T) {
	big := strings.Repeat("x", secret.MaxSize+1)
	t.Setenv("SECRET_BIG", big)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]secret.Source{
		"no variable":       {ID: "a", Env: "SECRET_UNSET"},
		"no file":           {ID: "a", File: "/nonexistent"},
		"neither":           {ID: "SECRET_UNSET"},
		"a directory":       {ID: "a", File: t.TempDir()},
		"a pipe":            {ID: "a", File: pipe},
		"a device":          {ID: "a", File: "/dev/zero"},
		"too large a file":  {ID: "a", File: file(t, big)},
		"a large variable":  {ID: "a", Env: "SECRET_BIG"},
		"a name with a NUL": {ID: "a\x00b"},
	} {
		_, err := secret.Read([]secret.Source{source})
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(err.Error()) > 300 || !strings.HasPrefix(err.Error(), "secret ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := secret.Read([]secret.Source{{ID: "a", File: file(t, big[1:])}}); err != nil {
		t.Errorf("the largest: %v", err)
	}
}

func TestNeverPrinted(t *testing.T) {
	const value = "hunter2hunter2"
	s, err := secret.Read([]secret.Source{{ID: "a", File: file(t, value)}})
	if err != nil {
		t.Fatal(err)
	}
	masker, finder := s.Masker(), s.Finder()
	writer := masker.Writer(io.Discard)
	writer.Write([]byte(value[:7]))
	finder.Write([]byte(value))
	type around struct {
		hidden secret.Secrets
		Shown  *secret.Masker
		writer *secret.MaskWriter
		finder *secret.Finder
	}
	a := around{s, masker, writer, finder}
	for _, v := range []any{s, &s, masker, writer, finder, a, &a, []any{s, a}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%c"} {
			text := fmt.Sprintf(verb, v)
			for _, form := range []string{"%s", "%d", "%x", "%X", "%#v"} {
				if part := strings.Trim(fmt.Sprintf(form, []byte(value[:7])), "[]"); strings.Contains(text, part) {
					t.Errorf("%s of %T prints %s", verb, v, text)
				}
			}
		}
		if b, err := json.Marshal(v); err != nil || bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("%T as JSON is %s, %v", v, b, err)
		}
	}
	if got := fmt.Sprint(s); got != "secrets(a)" {
		t.Error(got)
	}
	if !slices.Equal(finder.Found(), []string{"a"}) {
		t.Error("not found")
	}
}
