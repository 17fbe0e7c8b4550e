// Command sitegen is the one program of the demo image: it turns pages of plain
// text into a small web site, checks the links, and shows the result.
//
//	sitegen render PAGES PUBLIC   one .html for each .txt, and an index
//	sitegen check PUBLIC          every link must lead somewhere
//	sitegen show                  prints the site in $SITE, and who and where we are
package main

import (
	"bytes"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var page = template.Must(template.New("page").Parse(
	"<!doctype html>\n<title>{{.Title}} - {{.Site}}</title>\n<h1>{{.Title}}</h1>\n{{range .Body}}<p>{{.}}</p>\n{{end}}" +
		"{{range .Links}}<a href=\"{{.}}\">{{.}}</a>\n{{end}}"))

type content struct {
	Site, Title string
	Body, Links []string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sitegen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "render":
		return render(args[1], args[2])
	case len(args) == 2 && args[0] == "check":
		return check(args[1])
	case len(args) == 1 && args[0] == "show":
		return show(os.Getenv("SITE"))
	}
	return fmt.Errorf("usage: sitegen render PAGES PUBLIC | check PUBLIC | show")
}

func render(pages, public string) error {
	texts, err := filepath.Glob(filepath.Join(pages, "*.txt"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(public, 0o755); err != nil {
		return err
	}
	index := content{Site: os.Getenv("TITLE"), Title: "Index"}
	for _, text := range texts {
		b, err := os.ReadFile(text)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(text), ".txt") + ".html"
		title, body, _ := strings.Cut(string(b), "\n")
		c := content{Site: index.Site, Title: title, Body: strings.Split(strings.TrimSpace(body), "\n\n"), Links: []string{"index.html"}}
		if err := write(filepath.Join(public, name), c); err != nil {
			return err
		}
		fmt.Println("rendered", name)
		index.Links = append(index.Links, name)
	}
	return write(filepath.Join(public, "index.html"), index)
}

func write(file string, c content) error {
	var b bytes.Buffer
	if err := page.Execute(&b, c); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

var href = regexp.MustCompile(`href="([^"]*)"`)

func check(public string) error {
	files, err := filepath.Glob(filepath.Join(public, "*.html"))
	if err != nil {
		return err
	}
	links := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range href.FindAllStringSubmatch(string(b), -1) {
			links++
			if _, err := os.Stat(filepath.Join(public, m[1])); err != nil {
				return fmt.Errorf("%s: dead link: %w", filepath.Base(file), err)
			}
		}
	}
	fmt.Printf("%d pages, %d links, none dead\n", len(files), links)
	return nil
}

func show(site string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	fmt.Printf("I am uid %d in %s, process %d.\n", os.Getuid(), dir, os.Getpid())
	files, err := os.ReadDir(site)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(site, f.Name()))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(b), "<title>")
		title, _, _ := strings.Cut(rest, "</title>")
		fmt.Printf("%-12s %4d bytes  %s\n", f.Name(), len(b), title)
	}
	return nil
}
