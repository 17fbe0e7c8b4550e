//go:build ignore

// This program compresses the file that its argument names, as it is to be embedded: `make pid1` runs it, so that
// nothing but Go is needed.
package main

import (
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if err := compress(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func compress(name string) error {
	plain, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	return os.WriteFile(name+".zst", w.EncodeAll(plain, nil), 0o644)
}
