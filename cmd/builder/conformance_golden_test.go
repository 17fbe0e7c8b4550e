package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// config is the image's config as the golden files have it: each field of "config" and
// each row of the history in one line, without times and with the number of layers
// in place of their digests.
func (img *imageModel) config() string {
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(img.rawConfig), &all); err != nil {
		return err.Error()
	}
	delete(all, "created")
	delete(all, "history")
	delete(all, "rootfs")
	if string(all["architecture"]) == strconv.Quote(runtime.GOARCH) {
		all["architecture"] = json.RawMessage(`"$ARCH"`)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(all["config"], &fields); err == nil {
		delete(all, "config")
	}
	lines := fieldLines("", all)
	lines = append(lines, fieldLines("config.", fields)...)
	lines = append(lines, img.history()...)
	return strings.Join(append(lines, ""), "\n")
}

func fieldLines(prefix string, fields map[string]json.RawMessage) (lines []string) {
	for k, v := range fields {
		var value any
		if err := json.Unmarshal(v, &value); err == nil {
			v = plainJSON(value)
		}
		lines = append(lines, prefix+k+" "+string(v))
	}
	sort.Strings(lines)
	return lines
}

// plainJSON writes sorted keys, and < > & as they are.
func plainJSON(v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return []byte(err.Error())
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

type rowOfHistory struct {
	CreatedBy  string `json:"created_by"`
	Author     string
	Comment    string
	EmptyLayer bool `json:"empty_layer"`
}

// history has a row a line: "layer" or "empty", the text, and a comment that is not
// the usual one.
func (img *imageModel) history() (lines []string) {
	var config struct {
		History []rowOfHistory
		RootFS  struct {
			Type    string
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal([]byte(img.rawConfig), &config); err != nil {
		return []string{err.Error()}
	}
	for _, h := range config.History {
		line := "layer "
		if h.EmptyLayer {
			line = "empty "
		}
		line += strings.ReplaceAll(h.CreatedBy, "\n", `\n`)
		if h.Author != "" {
			line += " (author " + h.Author + ")"
		}
		if h.Comment != "buildkit.dockerfile.v0" {
			line += " (comment " + strconv.Quote(h.Comment) + ")"
		}
		lines = append(lines, line)
	}
	return append(lines, fmt.Sprintf("rootfs %s %d", config.RootFS.Type, len(config.RootFS.DiffIDs)))
}

// checkHistory wants a row with a layer for each layer.
func (img *imageModel) checkHistory() []string {
	lines := img.history()
	rows := 0
	for _, l := range lines {
		if strings.HasPrefix(l, "layer ") {
			rows++
		}
	}
	if rows == len(img.layers) && strings.HasSuffix(lines[len(lines)-1], fmt.Sprintf(" %d", rows)) {
		return nil
	}
	return []string{fmt.Sprintf("%d rows of the history have a layer, the image has %d layers, the config says %s", rows, len(img.layers), lines[len(lines)-1])}
}

func (r *caseResult) tree(c *conformanceCase) string {
	return r.img.listTree(r.base, c.option("times") != "")
}

// checkExpectations holds the first build against what the case's author wrote by
// hand, which -update leaves alone.
func (b *caseBuild) checkExpectations() (problems []string) {
	if want, ok := b.c.file("want.error"); ok {
		return b.checkError(strings.TrimSpace(want))
	}
	text, _ := b.c.file("expect")
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			continue
		}
		if p := b.expect(line); p != "" {
			problems = append(problems, "expect "+line+": "+p)
		}
	}
	return problems
}

// checkError holds the line that tells the fault against a regular expression; for a
// case that prints something instead of building, any line.
func (b *caseBuild) checkError(want string) []string {
	re, err := regexp.Compile(want)
	if err != nil {
		return []string{err.Error()}
	}
	anyLine := b.c.option("only") == "output"
	text := b.first.stderr + b.first.stdout
	for line := range strings.Lines(text) {
		if (anyLine || strings.HasPrefix(line, "builder: ")) && re.MatchString(line) {
			return nil
		}
	}
	return []string{fmt.Sprintf("no line of the error matches %s:\n%s", want, text)}
}

// expect checks one line; what it says is told in the cases' README.
func (b *caseBuild) expect(line string) string {
	verb, rest, _ := strings.Cut(line, " ")
	wanted := verb != "no"
	if !wanted {
		verb, rest, _ = strings.Cut(rest, " ")
	}
	switch verb {
	case "content":
		return b.expectContent(rest)
	case "stderr":
		return found(b.first.stderr, strings.Contains(b.first.stderr, rest), wanted)
	case "stdout":
		return found(b.first.stdout, strings.Contains(b.first.stdout, rest), wanted)
	}
	if b.first.img == nil {
		return "there is no image"
	}
	text, match := b.first.img.config(), func(l string) bool { return l == verb+" "+rest }
	switch verb {
	case "tree":
		text, match = b.first.tree(b.c), func(l string) bool { return l == rest || strings.HasPrefix(l, rest+" ") }
	case "env":
		want := `config.Env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",` + strings.TrimPrefix(rest, "[")
		match = func(l string) bool { return l == want }
	case "config":
		match = func(l string) bool { return strings.HasPrefix(l, "config."+rest) }
	case "root":
		match = func(l string) bool { return l == rest }
	case "layers":
		text, match = b.first.img.listLayers(b.first.baseLayers()), func(l string) bool { return strings.TrimSpace(l) == rest }
	}
	return found(text, slices.ContainsFunc(strings.Split(text, "\n"), match), wanted)
}

func found(text string, is, wanted bool) string {
	if is == wanted {
		return ""
	}
	if wanted {
		return "not in\n" + text
	}
	return "found in\n" + text
}

// expectContent checks PATH "CONTENT", with Go's escapes.
func (b *caseBuild) expectContent(rest string) string {
	p, quoted, _ := strings.Cut(rest, " ")
	want, err := strconv.Unquote(quoted)
	if err != nil {
		return "it is not a quoted text"
	}
	n := b.first.img.tree[p]
	if n == nil {
		return "there is no such file"
	}
	if got := string(n.content); got != want {
		return fmt.Sprintf("it is %q", got)
	}
	return ""
}

// baseLayers is how many layers lie below those of the build.
func (r *caseResult) baseLayers() int { return len(r.base.layers) }

// checkGoldens holds the first build against the golden results.
func (b *caseBuild) checkGoldens() (problems []string) {
	if b.first.img == nil {
		return nil
	}
	problems = b.first.img.checkHistory()
	got := map[string]string{"want.config": b.first.img.config(), "want.tree": b.first.tree(b.c)}
	if b.c.option("layers") != "" {
		got["want.layers"] = b.first.img.listLayers(b.first.baseLayers())
	}
	for name, text := range got {
		want, ok := b.c.file(name)
		if !ok {
			problems = append(problems, "there is no "+name+" (go test -run TestConformance -update writes it)")
		} else if want != text {
			problems = append(problems, fmt.Sprintf("%s: lines wanted (-) and got (+)\n%s", name, diffLines(want, text)))
		}
	}
	return problems
}

// diffLines lists the lines that only one of two texts has.
func diffLines(want, got string) string {
	var b strings.Builder
	for _, side := range []struct{ mark, text, other string }{{"-", want, got}, {"+", got, want}} {
		other := strings.Split(side.other, "\n")
		for line := range strings.Lines(side.text) {
			if line = strings.TrimSuffix(line, "\n"); !slices.Contains(other, line) {
				b.WriteString(side.mark + line + "\n")
			}
		}
	}
	if b.Len() == 0 && want != got {
		return "the same lines in another order:\n" + got
	}
	return b.String()
}

// checkTable writes the table of rows and cases, or proves it, and that no row is
// without a case.
func checkTable(t *testing.T, cases []*conformanceCase) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(conformanceDir, "rows.txt"))
	if err != nil {
		t.Fatal(err)
	}
	byRow := map[string][]string{}
	for _, c := range cases {
		for _, row := range c.all("row") {
			byRow[row] = append(byRow[row], c.name)
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "# Conformance: %d cases\n\nWritten by `go test ./cmd/builder -run TestConformance -update`.\n\n| row | cases |\n| --- | --- |\n", len(cases))
	for line := range strings.Lines(string(b)) {
		row := strings.TrimSpace(line)
		if row == "" || row[0] == '#' {
			continue
		}
		if len(byRow[row]) == 0 {
			t.Errorf("no case has the row %q", row)
		}
		fmt.Fprintf(&table, "| %s | %s |\n", strings.ReplaceAll(row, "|", `\|`), strings.Join(byRow[row], ", "))
		delete(byRow, row)
	}
	for row, names := range byRow {
		t.Errorf("%s: the row %q is not in rows.txt", strings.Join(names, ", "), row)
	}
	file := filepath.Join(conformanceDir, "TABLE.md")
	if *updateGoldens {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Error(err)
		}
		return
	}
	if old, err := os.ReadFile(file); err != nil || string(old) != table.String() {
		t.Error("TABLE.md is stale: go test ./cmd/builder -run TestConformance -update")
	}
}
