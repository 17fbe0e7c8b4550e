package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdLayer writes a tar as no honest program would, of the entries that a file lists, one a line: layer FILE LIST
//
//	dir NAME [MODE] · file NAME [TEXT] · link NAME TARGET · hard NAME TARGET · fifo NAME · block NAME · lie NAME SIZE
//	copy NAME FILE · capable NAME TEXT
//
// Variables of the script are replaced; "-" stands for the empty name, and what begins with a double quote is as Go writes
// strings. A lie has a size and nothing behind it.
func cmdLayer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: layer file list")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	lied := false
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) < 2 {
			ts.Fatalf("layer: %q is no entry", line)
		}
		arg := ""
		if len(fields) > 2 {
			arg = layerWord(ts, fields[2])
		}
		h, body := layerEntry(ts, fields[0], layerWord(ts, fields[1]), arg)
		lied = lied || h.Size != int64(len(body))
		ts.Check(w.WriteHeader(h))
		_, err := w.Write(body)
		ts.Check(err)
	}
	if err := w.Close(); err != nil && !lied {
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buf.Bytes(), 0o644))
}

func layerWord(ts *testscript.TestScript, word string) string {
	if strings.HasPrefix(word, `"`) {
		text, err := strconv.Unquote(word)
		ts.Check(err)
		return text
	}
	return os.Expand(word, ts.Getenv)
}

func layerEntry(ts *testscript.TestScript, kind, name, arg string) (*tar.Header, []byte) {
	if name == "-" {
		name = ""
	}
	h := &tar.Header{Name: name, Mode: 0o755, Format: tar.FormatPAX}
	switch kind {
	case "dir":
		h.Typeflag = tar.TypeDir
		if arg != "" {
			mode, err := strconv.ParseInt(arg, 8, 32)
			ts.Check(err)
			h.Mode = mode
		}
	case "file":
		h.Typeflag, h.Size = tar.TypeReg, int64(len(arg))
		return h, []byte(arg)
	case "capable": // of everything, by the attribute that setcap(8) writes
		h.Typeflag, h.Size = tar.TypeReg, int64(len(arg))
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02" + strings.Repeat("\xff", 4) + strings.Repeat("\x00", 4) + "\xff\x01\x00\x00" + strings.Repeat("\x00", 4)}
		return h, []byte(arg)
	case "copy":
		body := ts.ReadFile(arg)
		h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		return h, []byte(body)
	case "link", "hard":
		h.Typeflag, h.Linkname = tar.TypeSymlink, arg
		if kind == "hard" {
			h.Typeflag = tar.TypeLink
		}
	case "fifo":
		h.Typeflag = tar.TypeFifo
	case "block":
		h.Typeflag, h.Devmajor = tar.TypeBlock, 8
	case "lie":
		size, err := strconv.ParseInt(arg, 0, 64)
		ts.Check(err)
		h.Typeflag, h.Size = tar.TypeReg, size
	default:
		ts.Fatalf("layer: unknown kind %q", kind)
	}
	return h, nil
}

// cmdImage makes an OCI layout whose image has layers and, from a file, a history: image DIR HISTORY|- LAYER…
func cmdImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: image dir history|- layer…")
	}
	dir := ts.MkAbs(args[0])
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	if args[1] != "-" {
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &config))
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, file := range args[2:] {
		data := []byte(ts.ReadFile(file))
		m.Layers = append(m.Layers, addBlob(ts, dir, ocispec.MediaTypeImageLayer, data))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(data))
	}
	m.Config = addBlob(ts, dir, ocispec.MediaTypeImageConfig, encode(ts, config))
	desc := addBlob(ts, dir, ocispec.MediaTypeImageManifest, encode(ts, m))
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}}
	ts.Check(os.WriteFile(filepath.Join(dir, "index.json"), encode(ts, index), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "oci-layout"), fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispec.ImageLayoutVersion), 0o644))
}

func encode(ts *testscript.TestScript, v any) []byte {
	b, err := json.Marshal(v)
	ts.Check(err)
	return b
}

func addBlob(ts *testscript.TestScript, dir, mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	file := filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(os.WriteFile(file, data, 0o644))
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}
