// Package sbomtest gives the tests of package sbom and of those below it their files. It knows no format of packages.
package sbomtest

import (
	"compress/gzip"
	"io"
	"os"
	"testing"
)

// Gunzip is what a file holds that is compressed by gzip, as databases in testdata are.
func Gunzip(t testing.TB, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
