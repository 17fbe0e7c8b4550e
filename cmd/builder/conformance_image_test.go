package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/oci/layer"
)

// imageModel is an image as a reader of layers sees it who shares no code with the
// program under test but the decompressor.
type imageModel struct {
	digest    string // of the manifest
	rawConfig string
	layers    [][]tarEntry
	tree      map[string]*node
	opened    map[string]bool // directories that a layer has made opaque
}

// node is one file of the tree. Hard links are paths with one node.
type node struct {
	kind     byte // one of tar's type flags
	mode     int64
	uid, gid int
	size     int64
	link     string
	major    int64
	minor    int64
	sum      string
	content  []byte // of small files
	xattrs   map[string]string
	mtime    time.Time
}

// tarEntry is one entry of a layer.
type tarEntry struct {
	path string
	hdr  tar.Header
	node *node
}

type manifestFile struct {
	Config struct{ Digest string }
	Layers []struct{ Digest string }
}

// readLayout reads the one image of an OCI layout.
func readLayout(dir string, known *baseImages) (*imageModel, error) {
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%d images in the layout, want 1", len(index.Manifests))
	}
	img := &imageModel{digest: index.Manifests[0].Digest}
	return img, img.read(img.digest, func(digest string) string {
		return filepath.Join(dir, "blobs", strings.ReplaceAll(digest, ":", "/"))
	}, known)
}

// readDir reads an image in the form that containers/image calls "dir".
func readDir(dir string, known *baseImages) (*imageModel, error) {
	img := &imageModel{}
	return img, img.read("", func(digest string) string {
		if digest == "" {
			return filepath.Join(dir, "manifest.json")
		}
		return filepath.Join(dir, strings.TrimPrefix(digest, "sha256:"))
	}, known)
}

func (img *imageModel) read(manifest string, file func(digest string) string, known *baseImages) error {
	b, err := os.ReadFile(file(manifest))
	if err != nil {
		return err
	}
	var m manifestFile
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	config, err := os.ReadFile(file(m.Config.Digest))
	if err != nil {
		return err
	}
	img.rawConfig = string(config)
	for _, l := range m.Layers {
		entries, err := known.layer(l.Digest, file(l.Digest))
		if err != nil {
			return err
		}
		img.layers = append(img.layers, entries)
	}
	img.apply()
	return nil
}

// readLayer reads one layer, in whatever encoding.
func readLayer(p string) (entries []tarEntry, err error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, _, err := layer.Decompress(f)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	tr := tar.NewReader(plain)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		e := tarEntry{path: path.Clean("/" + hdr.Name), hdr: *hdr}
		if e.node, err = readNode(hdr, tr); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

func readNode(hdr *tar.Header, r io.Reader) (*node, error) {
	n := &node{kind: hdr.Typeflag, mode: hdr.Mode & 0o7777, uid: hdr.Uid, gid: hdr.Gid, size: hdr.Size,
		link: hdr.Linkname, major: hdr.Devmajor, minor: hdr.Devminor, mtime: hdr.ModTime, xattrs: map[string]string{}}
	for k, v := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			n.xattrs[name] = v
		}
	}
	if hdr.Typeflag != tar.TypeReg {
		return n, nil
	}
	h := sha256.New()
	var head bytes.Buffer
	if _, err := io.Copy(io.MultiWriter(h, &limited{&head, 1 << 16}), r); err != nil {
		return nil, err
	}
	n.sum, n.content = hex.EncodeToString(h.Sum(nil))[:12], head.Bytes()
	return n, nil
}

// limited keeps the first bytes of what is written to it.
type limited struct {
	w    *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	k := min(len(p), l.left)
	l.left -= k
	l.w.Write(p[:k])
	return len(p), nil
}

// apply lays the layers over each other.
func (img *imageModel) apply() {
	img.tree = map[string]*node{}
	img.opened = map[string]bool{}
	for _, entries := range img.layers {
		for _, e := range entries {
			img.whiteout(e.path)
		}
		for _, e := range entries {
			if !strings.HasPrefix(path.Base(e.path), ".wh.") && e.path != "/" {
				img.add(e)
			}
		}
	}
}

// whiteout does what a path says about the layers below it, if it does.
func (img *imageModel) whiteout(p string) {
	dir, base := path.Split(p)
	victim, ok := strings.CutPrefix(base, ".wh.")
	switch {
	case base == ".wh..wh..opq":
		img.remove(path.Clean(dir), false)
		img.opened[path.Clean(dir)] = true
	case ok:
		img.remove(dir+victim, true)
	}
}

// remove removes what is below a path, and what is there.
func (img *imageModel) remove(p string, itself bool) {
	prefix := strings.TrimSuffix(p, "/") + "/"
	maps.DeleteFunc(img.tree, func(k string, _ *node) bool {
		return strings.HasPrefix(k, prefix) || itself && k == p
	})
}

func (img *imageModel) add(e tarEntry) {
	old := img.tree[e.path]
	if old != nil && old.kind == tar.TypeDir && e.node.kind != tar.TypeDir {
		img.remove(e.path, true)
	}
	if e.node.kind != tar.TypeLink {
		img.tree[e.path] = e.node
		return
	}
	if target := img.tree[path.Clean("/"+e.node.link)]; target != nil {
		img.tree[e.path] = target
	} else {
		img.tree[e.path] = &node{kind: '?', link: "a hard link to nothing: " + e.node.link}
	}
}

// listTree writes a line for every file that base has not in the same way, and for
// every file of base that is gone.
func (img *imageModel) listTree(base *imageModel, times bool) string {
	var lines []string
	groups := img.hardLinks()
	baseGroups := base.hardLinks()
	for p, n := range img.tree {
		line := n.line(p, groups[n], times)
		if old := base.tree[p]; old == nil || old.line(p, baseGroups[old], times) != line {
			lines = append(lines, line)
		}
	}
	for p := range base.tree {
		if img.tree[p] == nil {
			lines = append(lines, "- "+quotePath(p))
		}
	}
	slices.Sort(lines)
	return strings.Join(append(lines, ""), "\n")
}

// hardLinks names each node that several paths have after the first of them.
func (img *imageModel) hardLinks() map[*node]string {
	paths := map[*node][]string{}
	for p, n := range img.tree {
		paths[n] = append(paths[n], p)
	}
	names := map[*node]string{}
	for n, ps := range paths {
		if len(ps) > 1 {
			names[n] = slices.Min(ps)
		}
	}
	return names
}

var kinds = map[byte]string{
	tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "link", tar.TypeFifo: "fifo", tar.TypeChar: "char", tar.TypeBlock: "block",
}

func (n *node) line(p, group string, times bool) string {
	kind := kinds[n.kind]
	if kind == "" {
		kind = "unknown"
	}
	line := fmt.Sprintf("%s %s %04o %d:%d", quotePath(p), kind, n.mode, n.uid, n.gid)
	switch n.kind {
	case tar.TypeReg:
		line += n.contentText()
	case tar.TypeSymlink, '?':
		line += " -> " + quotePath(n.link)
	case tar.TypeChar, tar.TypeBlock:
		line += fmt.Sprintf(" %d,%d", n.major, n.minor)
	}
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		line += fmt.Sprintf(" %s=%q", k, n.xattrs[k])
	}
	if group != "" {
		line += " hard:" + quotePath(group)
	}
	if times {
		line += " @" + n.time()
	}
	return line
}

// begun is about when the tests began.
var begun = time.Now().Add(-time.Minute)

// time is in seconds, or "now" for what was written while the tests ran.
func (n *node) time() string {
	if n.mtime.After(begun) {
		return "now"
	}
	return strconv.FormatInt(n.mtime.Unix(), 10)
}

// busyboxSum is the digest of the busybox of this machine, which goldens call by name.
var busyboxSum string

func (n *node) contentText() string {
	if n.sum == busyboxSum {
		return " busybox"
	}
	return fmt.Sprintf(" %d %s", n.size, n.sum)
}

func quotePath(p string) string {
	if q := strconv.Quote(p); q != `"`+p+`"` || strings.Contains(p, " ") {
		return q
	}
	return p
}

// listLayers writes what each layer above the base has, in the order of the tar.
func (img *imageModel) listLayers(from int) string {
	var b strings.Builder
	for i, entries := range img.layers[min(from, len(img.layers)):] {
		fmt.Fprintf(&b, "layer %d\n", i+1)
		for _, e := range entries {
			fmt.Fprintf(&b, "  %s\n", quotePath(e.hdr.Name))
		}
	}
	return b.String()
}

// layerTimes writes everything about the layers that may differ.
func (img *imageModel) layerTimes() string {
	var b strings.Builder
	for i, entries := range img.layers {
		for _, e := range entries {
			fmt.Fprintf(&b, "%d %s %d\n", i, e.node.line(e.path, "", false), e.node.mtime.UnixNano())
		}
	}
	return b.String()
}
