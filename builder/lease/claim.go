package lease

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Claim is the right to make something that others would make too. It ends with Release,
// or with the process. The nil Claim is nobody's.
type Claim struct {
	file *os.File
	once sync.Once
}

// Claim waits until nobody else, in this process or another, makes what name stands for.
// The caller then looks whether it has been made meanwhile. wait, unless nil, is called
// once when there is somebody to wait for.
//
// Two who wait for each other would wait for ever. So claims have an order, and whoever
// has one only waits for a later one: a step, a base to unpack, a layer of it, an encoding,
// a blob, the record of an image.
func (l *Lease) Claim(ctx context.Context, name string, wait func()) (*Claim, error) {
	sum := sha256.Sum256([]byte(name))
	path := filepath.Join(l.claims, hex.EncodeToString(sum[:]))
	var p Pause
	for {
		c, err := tryClaim(path)
		if c != nil || err != nil {
			return c, err
		}
		// The first refusal may be a sweep that looks whether the owner is alive.
		if p == firstPause && wait != nil {
			wait()
		}
		if err := p.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// tryClaim returns nil when another has the claim, and when it has just let go of it.
func tryClaim(path string) (*Claim, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = lockFile(f)
	if err == nil {
		return &Claim{file: f}, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, errGone) {
		return nil, nil
	}
	return nil, err
}

// Release lets the next one have it. Its file goes first: who has opened it before finds
// that it has no name, and makes another.
func (c *Claim) Release() {
	if c == nil {
		return
	}
	c.once.Do(func() {
		// What cannot be removed is swept by the next process; nobody waits for a file.
		_ = os.Remove(c.file.Name())
		_ = c.file.Close()
	})
}
