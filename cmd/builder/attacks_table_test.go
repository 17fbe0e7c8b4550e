package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	securityDoc = "../../docs/security.md"
	tableBegin  = "<!-- attacks: made by go test ./cmd/builder -run TestAttackTable -update -->\n"
	tableEnd    = "<!-- end of attacks -->\n"
)

// attackRow is one line of rows.txt.
type attackRow struct{ ids, what, cases string }

// TestAttackTable holds every row to a case that exists, every script to a row, and the table in docs/security.md to both.
func TestAttackTable(t *testing.T) {
	rows := readAttackRows(t)
	named := map[string]bool{}
	var table strings.Builder
	table.WriteString("| id | product: what went wrong | case | result |\n|---|---|---|---|\n")
	for _, r := range rows {
		result := "withstood"
		if strings.HasPrefix(r.cases, "none: ") {
			result = "cannot apply"
		} else {
			for c := range strings.SplitSeq(r.cases, ", ") {
				named[c] = true
				if err := attackCaseExists(c); err != nil {
					t.Errorf("%s: %v", r.ids, err)
				}
			}
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", r.ids, r.what, strings.TrimPrefix(r.cases, "none: "), result)
	}
	scripts, err := filepath.Glob(filepath.Join(attacksDir, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range scripts {
		if name := strings.TrimSuffix(filepath.Base(file), ".txtar"); !named["attack "+name] {
			t.Errorf("no row of rows.txt names the script %s", name)
		}
	}
	holdTable(t, table.String())
}

func readAttackRows(t *testing.T) (rows []attackRow) {
	text, err := os.ReadFile(filepath.Join(attacksDir, "rows.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(strings.TrimSpace(line), " | ")
		if len(fields) != 3 {
			t.Fatalf("rows.txt: %q has %d fields, want 3", line, len(fields))
		}
		rows = append(rows, attackRow{fields[0], fields[1], fields[2]})
	}
	return rows
}

// attackCaseExists finds "attack NAME", "script NAME" or "go PACKAGE.TEST" among the sources.
func attackCaseExists(c string) error {
	kind, name, _ := strings.Cut(c, " ")
	switch kind {
	case "attack", "script":
		_, err := os.Stat(filepath.Join("../../testdata", kind+map[string]string{"attack": "s"}[kind], name+".txtar"))
		return err
	case "go":
		pkg, test, _ := strings.Cut(name, ".")
		files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "\nfunc "+test+"(") {
				return nil
			}
		}
	}
	return fmt.Errorf("there is no %s", c)
}

// holdTable compares the table with the one in the documentation, or writes it there.
func holdTable(t *testing.T, table string) {
	doc, err := os.ReadFile(securityDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", securityDoc)
	}
	if old == table {
		return
	}
	if !*updateGoldens {
		t.Fatalf("the table in %s is stale: run with -update", securityDoc)
	}
	if err := os.WriteFile(securityDoc, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
