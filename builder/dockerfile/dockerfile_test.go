package dockerfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"builder/builder/dockerfile"
)

func parse(t *testing.T, source string) *dockerfile.File {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestBytes(t *testing.T) {
	for name, source := range map[string]string{
		"byte order mark": "\ufeff# escape=`\nFROM scratch\nCOPY a `\n b\n",
		"CRLF":            "FROM scratch\r\nCOPY a \\\r\n b\r\n",
		"no last newline": "FROM scratch\nCOPY a b",
		"ends in escape":  "FROM scratch\nCOPY a b \\",
		"blank in escape": "FROM scratch\nCOPY a \\ \t\n b\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := parse(t, source)
			c, ok := f.Stages[0].Commands[0].(*instructions.CopyCommand)
			if !ok || len(c.SourcePaths) != 1 || c.SourcePaths[0] != "a" || c.DestPath != "b" {
				t.Errorf("parsed as %+v", f.Stages[0].Commands[0])
			}
		})
	}
}

func TestHeredocKeepsLineEnds(t *testing.T) {
	f := parse(t, "FROM scratch\r\nRUN <<EOF\r\none\r\ntwo\r\nEOF\r\n")
	run := f.Stages[0].Commands[0].(*instructions.RunCommand)
	if len(run.Files) != 1 || run.Files[0].Data != "one\r\ntwo\r\n" {
		t.Errorf("files %+v", run.Files)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ source, text, excerpt string }{
		{"", "Dockerfile: the Dockerfile cannot be empty", ""},
		{" \n", "Dockerfile:1: file with no instructions", ">  1 |  \n"},
		{"ARG A\n", "Dockerfile: dockerfile contains no stages to build", ""},
		{"FROM scratch\nRUN " + strings.Repeat("x", 1<<16) + "\n",
			"Dockerfile:2: RUN " + strings.Repeat("x", 68) + "…: dockerfile line greater than max allowed size of 65535",
			"   1 | FROM scratch\n>  2 | RUN " + strings.Repeat("x", 156) + "…\n"},
		{"# escape=\\\n# escape=\\\nFROM a\n", "Dockerfile:2: only one escape parser directive can be used",
			"   1 | # escape=\\\n>  2 | # escape=\\\n"},
		{"# escape=x\nFROM a\n", "Dockerfile:1: invalid escape token 'x' does not match ` or \\", ">  1 | # escape=x\n"},
		{"FROM a\n\x1b[31mRUN\tx\n", "Dockerfile:2: \\x1b[31mRUN\tx: unknown instruction: \\x1b[31mRUN",
			"   1 | FROM a\n>  2 | \\x1b[31mRUN\tx\n"},
		{"FROM a\nENV \\\n a=1 \\\n b\nRUN x\n", "Dockerfile:2: ENV …: Syntax error - can't find = in \"b\". Must be of the form: name=value",
			"   1 | FROM a\n>  2 | ENV \\\n>  3 |  a=1 \\\n>  4 |  b\n"},
	} {
		_, err := dockerfile.Parse("Dockerfile", []byte(c.source))
		var placed *dockerfile.Error
		if !errors.As(err, &placed) {
			t.Errorf("%.20q: error %v", c.source, err)
			continue
		}
		if err.Error() != c.text || placed.Excerpt != c.excerpt {
			t.Errorf("%.20q:\n%s\n%s\nwant\n%s\n%s", c.source, err, placed.Excerpt, c.text, c.excerpt)
		}
	}
}

func TestErrorKeepsPlace(t *testing.T) {
	f := parse(t, "FROM a\nRUN x\n")
	cause := errors.New("cause")
	inner := f.At(dockerfile.Range{Start: 2, End: 2}, cause)
	outer := f.Wrap([]parser.Range{{Start: parser.Position{Line: 1}}}, fmt.Errorf("more: %w", inner))
	if outer.Range.Start != 2 || !errors.Is(outer, cause) || inner.Error() != "Dockerfile:2: RUN x: cause" {
		t.Errorf("%+v", outer)
	}
}

func TestExcerpt(t *testing.T) {
	f := parse(t, "FROM a\n"+strings.Repeat("RUN x\n", 200)+"RUN <<E\n"+strings.Repeat("y\n", 100)+"E\n")
	for _, c := range []struct {
		r    dockerfile.Range
		want string
	}{
		{dockerfile.Range{}, ""},
		{dockerfile.Range{Start: 1, End: 1}, ">  1 | FROM a\n"},
		{dockerfile.Range{Start: 102, End: 103}, " 100 | RUN x\n 101 | RUN x\n>102 | RUN x\n>103 | RUN x\n"},
		{dockerfile.Range{Start: 9999, End: 1}, " 301 | y\n 302 | y\n>303 | E\n"},
	} {
		if got := f.Excerpt(c.r); got != c.want {
			t.Errorf("%v:\n%s\nwant\n%s", c.r, got, c.want)
		}
	}
	long := f.Excerpt(dockerfile.Range{Start: 202, End: 303})
	if n := strings.Count(long, "\n"); n > 20 || !strings.HasSuffix(long, "…\n") {
		t.Errorf("%d lines:\n%s", n, long)
	}
}

func TestFrontends(t *testing.T) {
	for image, ok := range map[string]bool{
		"docker/dockerfile": true, "docker/dockerfile:1": true, "docker.io/docker/dockerfile:1.4-labs": true,
		"docker/dockerfile-upstream:master": true, "registry.example.com:5000/hub/docker/dockerfile:1": true,
		"docker/dockerfile@sha256:2222222222222222222222222222222222222222222222222222222222222222": true,
		"docker/dockerfile-of-mine": false, "dockerfile": false, "evil/dockerfile": false, "not docker/dockerfile": false, "": false,
	} {
		if err := dockerfile.CheckFrontend(image); (err == nil) != ok {
			t.Errorf("%q: %v", image, err)
		}
	}
	for _, source := range []string{
		"// syntax=example.com/x\nFROM a\n", "#!/bin/x\n# syntax=example.com/x\nFROM a\n", `{"syntax":"example.com/x"}`,
	} {
		if _, err := dockerfile.Parse("Dockerfile", []byte(source)); err == nil || !strings.Contains(err.Error(), "syntax") {
			t.Errorf("%q: %v", source, err)
		}
	}
}

func TestParseTrigger(t *testing.T) {
	c, err := dockerfile.ParseTrigger("RUN <<EOF\nx\nEOF")
	if run, ok := c.(*instructions.RunCommand); err != nil || !ok || len(run.Files) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"":            "file with no instructions",
		"RUN a\nRUN":  "onbuild trigger should be a single expression",
		"from x":      "FROM isn't allowed as an ONBUILD trigger",
		"ONBUILD RUN": "ONBUILD isn't allowed as an ONBUILD trigger",
		"COPY x":      "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
	} {
		if _, err := dockerfile.ParseTrigger(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCloneIsOwn(t *testing.T) {
	f := parse(t, "# check=skip=all\nFROM scratch\nMAINTAINER a\nLABEL a=b\n")
	check := ""
	c, err := f.Clone(&check)
	if err != nil {
		t.Fatal(err)
	}
	c.Stages[0].Commands[1].(*instructions.LabelCommand).Labels[0].Value = "changed"
	if v := f.Stages[0].Commands[1].(*instructions.LabelCommand).Labels[0].Value; v != "b" {
		t.Errorf("the original has %q", v)
	}
	if len(f.Warnings) != 0 || len(c.Warnings) != 1 || c.Warnings[0].Rule != "MaintainerDeprecated" || c.Warnings[0].Range.Start != 3 {
		t.Errorf("warnings %v and %v", f.Warnings, c.Warnings)
	}
}

func TestQuote(t *testing.T) {
	source := []byte("one\r\ntwo\x1b[2J\nthree\nfour\nfive\nsix\nseven\n")
	for _, c := range []struct {
		r    dockerfile.Range
		want string
	}{
		{dockerfile.Range{}, ""},
		{dockerfile.Range{Start: 1, End: 1}, "F:1\n1>one|2 two\\x1b[2J|3 three"},
		{dockerfile.Range{Start: 4, End: 4}, "F:4\n2 two\\x1b[2J|3 three|4>four|5 five|6 six"},
		{dockerfile.Range{Start: 6, End: 99}, "F:6\n5 five|6>six|7>seven"},
	} {
		got := dockerfile.Quote("F", source, c.r)
		got = strings.NewReplacer("--------------------\n", "", " | >>> ", ">", " |     ", " ").Replace(got)
		lines := strings.Split(strings.TrimSpace(got), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		if head, rest := lines[0], lines[1:]; len(rest) > 0 {
			got = head + "\n" + strings.Join(rest, "|")
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.r, got, c.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	path := &fs.PathError{Op: "open", Path: "a\nbuilder: done\r\nb", Err: fs.ErrNotExist}
	link := &os.LinkError{Op: "link", Old: "x\ny", New: "\x1b[2J\n", Err: fs.ErrExist}
	const shown = `open a\nbuilder: done\r\nb: file does not exist`
	for _, c := range []struct {
		err  error
		want string
	}{
		{path, shown},
		{fmt.Errorf("copy: %w", path), "copy: " + shown},
		{errors.Join(path, errors.New("two\nlines"), link), shown + "\ntwo\nlines\nlink x\\ny \\x1b[2J\\n: file already exists"},
		{(&dockerfile.File{Name: "Dockerfile"}).At(dockerfile.Range{}, fmt.Errorf("x: %w", path)), "Dockerfile: x: " + shown},
	} {
		if got := dockerfile.ErrorText(c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
