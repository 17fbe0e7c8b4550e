package sbom

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"builder/builder/sbom/zip"
	"builder/overlay"
)

// Bounds of what is read of one Java archive and of all in it: the largest servers have 500 MB with some hundred archives
// in them, one in the other at most three deep.
const (
	maxJavaDepth = 5
	maxJavaRead  = 2 << 30   // bytes of files that are looked into, those of archives in archives again
	maxJavaHeld  = 128 << 20 // bytes in memory of archives that are compressed in others
)

var errJavaBomb = errors.New("there is more in it than can be read")

// isJava tells whether a file is an archive by its name.
func isJava(name string) bool {
	switch path.Ext(name) {
	case ".jar", ".war", ".ear", ".hpi", ".jpi":
		return true
	}
	return false
}

// oneJava has one archive read at a time, which bounds memory.
var oneJava sync.Mutex

// java lists what was put into a Java archive, as Maven or else its manifest says.
func (s *scan) java(at string, n *overlay.Node) error {
	f, err := openAt(n, n.Stat.Size)
	if err != nil {
		return err
	}
	defer f.Close()
	oneJava.Lock()
	defer oneJava.Unlock()
	a := &javaArchive{s: s, at: at, left: new(int64(maxJavaRead)), held: maxJavaHeld, depth: 1}
	return a.read(&f.SectionReader)
}

// javaArchive is an archive that is being read, in others perhaps.
type javaArchive struct {
	s     *scan
	at    string
	left  *int64 // bytes that may still be read, of the outermost archive and all in it
	held  int64  // bytes that may still be held
	depth int

	bad      error // of the first archive in it that cannot be read
	named    bool  // Maven says what it is
	manifest javaPackage
}

// read reads what is in the archive. That one in it cannot be read is told after all others were.
func (a *javaArchive) read(r *io.SectionReader) error {
	if err := zip.Each(r, a.file); err != nil {
		return err
	}
	if !a.named {
		a.add(a.manifest)
	}
	return a.bad
}

// file reads one file, if it tells of packages.
func (a *javaArchive) file(f zip.File) error {
	if err := a.s.ctx.Err(); err != nil {
		return err
	}
	described := strings.HasPrefix(f.Name, "META-INF/maven/") && path.Base(f.Name) == "pom.properties"
	switch {
	case described, f.Name == "META-INF/MANIFEST.MF":
		if err := a.spend(f.Size); err != nil {
			return err
		}
		b, err := f.Content(maxDescription)
		if err != nil {
			return err
		}
		if described {
			a.maven(b)
		} else {
			a.manifest = readManifest(b)
		}
	case isJava(f.Name):
		return a.inner(f)
	}
	return nil
}

// spend takes what is to be read off what may be.
func (a *javaArchive) spend(n int64) error {
	if n < 0 || n > *a.left {
		return errJavaBomb
	}
	*a.left -= n
	return nil
}

// inner reads an archive that lies in this one.
func (a *javaArchive) inner(f zip.File) error {
	if err := a.spend(f.Size); err != nil {
		return err
	}
	below := &javaArchive{s: a.s, at: a.at + "!/" + word(f.Name), left: a.left, held: a.held, depth: a.depth + 1}
	err := below.open(f)
	if errors.Is(err, errJavaBomb) {
		return err
	}
	if err != nil && a.bad == nil {
		a.bad = fmt.Errorf("%.200q in it: %w", f.Name, err)
	}
	return nil
}

func (a *javaArchive) open(f zip.File) error {
	if a.depth > maxJavaDepth {
		return errors.New("it lies too deep")
	}
	r, err := f.Stored()
	if err == nil && r == nil {
		var b []byte
		b, err = f.Content(a.held)
		r, a.held = io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), a.held-int64(len(b))
	}
	if err != nil {
		return err
	}
	return a.read(r)
}

// javaPackage is what an archive says that it is.
type javaPackage struct{ group, name, version string }

// maven reads the properties that Maven leaves for each artifact, also for those that were merged into this archive.
func (a *javaArchive) maven(b []byte) {
	var p javaPackage
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, "=")
		switch value = word(strings.TrimRight(value, "\r\n")); strings.TrimSpace(key) {
		case "groupId":
			p.group = value
		case "artifactId":
			p.name = value
		case "version":
			p.version = value
		}
	}
	a.named = a.add(p) || a.named
}

// readManifest reads the main section of a manifest (the JAR file specification), whose lines of more than 72 bytes go on
// after a space: what the archive is as an implementation, or else as an OSGi bundle.
func readManifest(b []byte) javaPackage {
	text := strings.NewReplacer("\r\n ", "", "\n ", "").Replace(string(b))
	fields := map[string]string{}
	// What was found before a line that is too long counts.
	_ = stanzas(strings.NewReader(text), func(key, value string) { fields[key] = word(value) }, func() bool { return false })
	if title, version := fields["Implementation-Title"], fields["Implementation-Version"]; title != "" && version != "" {
		return javaPackage{fields["Implementation-Vendor-Id"], title, version}
	}
	name, _, _ := strings.Cut(fields["Bundle-SymbolicName"], ";") // directives follow
	return javaPackage{"", strings.TrimSpace(name), fields["Bundle-Version"]}
}

// add adds a package, if the archive says both what it is and which version. Without a group it is not known to Maven.
func (a *javaArchive) add(p javaPackage) bool {
	if p.name == "" || p.version == "" || strings.Contains(p.group+p.name+p.version, "${") { // nobody filled it in
		return false
	}
	id := purl{kind: "maven", namespace: p.group, name: p.name, version: p.version}
	if p.group == "" {
		id.kind = "generic"
	}
	a.s.add(a.at, id, Package{Name: p.name, Version: p.version})
	return true
}
