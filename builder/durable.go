package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"builder/builder/progress"

	"golang.org/x/sys/unix"
)

// What a build writes is not made durable step by step: that would cost more than many
// steps do, and a process that dies, however it does, takes nothing away that it has
// written. Only a machine that dies does. So the store notes since when it may hold what
// the disk does not, and in which boot of the machine; the first process after a boot
// proves what is younger, and drops what it cannot prove.

// durable is what the file "durable" says: all that was written before At, by the clock
// that stamps files, is on the disk. What was written later in the same Boot can be read,
// whether or not it is.
type durable struct {
	Boot string    `json:"boot"`
	At   time.Time `json:"at"`
}

func (s *Store) durablePath() string { return filepath.Join(s.root, "durable") }

// bootID names the time since the machine was started (random(4)).
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// readDurable returns what is known; nothing when the file is missing or torn.
func (s *Store) readDurable() (d durable) {
	b, err := os.ReadFile(s.durablePath())
	if err != nil || json.Unmarshal(b, &d) != nil || d.At.After(time.Now()) {
		return durable{} // a clock that was set back tells nothing
	}
	return d
}

// Recover makes the store fit for use after the machine was started anew: what may not
// have reached the disk is proven, or dropped, and say is told. Otherwise it does nothing.
func (s *Store) Recover(ctx context.Context, say func(string)) error {
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("find out whether the machine was restarted: %w", err)
	}
	if s.readDurable().Boot == boot {
		return nil
	}
	claim, err := s.lease.Claim(ctx, "recovery", nil)
	if err != nil {
		return err
	}
	defer claim.Release()
	known := s.readDurable()
	if known.Boot == boot {
		return nil
	}
	if empty, err := s.empty(); err != nil {
		return err
	} else if !empty {
		if err := s.recover(ctx, known.At, say); err != nil {
			return fmt.Errorf("recover the store after a restart of the machine: %w", err)
		}
	}
	return s.sync(boot)
}

// empty reports whether the store holds nothing yet.
func (s *Store) empty() (bool, error) {
	trees, err := os.ReadDir(filepath.Join(s.root, "trees"))
	if err != nil {
		return false, err
	}
	blobs, err := os.ReadDir(filepath.Join(s.root, "blobs", "sha256"))
	return len(trees)+len(blobs) == 0, err
}

func (s *Store) recover(ctx context.Context, since time.Time, say func(string)) error {
	say("proving what may not have reached the store's disk before the machine was restarted")
	quiet := progress.New(progress.Quiet, io.Discard, progress.Options{})
	defer quiet.Close()
	// A second of mercy for the ticks of the clock that stamps files.
	found, err := s.Check(ctx, CheckOptions{Repair: true, Progress: quiet, since: since.Add(-time.Second), unproven: true})
	if err != nil {
		return err
	}
	for _, d := range found.Damage {
		say(fmt.Sprintf("dropped %s %s: %s", d.Kind, d.ID, d.Reason))
	}
	return nil
}

// sync makes all that was written until now durable, and notes it.
func (s *Store) sync(boot string) error {
	at := time.Now()
	dir, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: s.root, Err: err}
	}
	b, err := json.Marshal(durable{Boot: boot, At: at})
	if err != nil {
		return err
	}
	// That the note cannot be written only makes the next recovery longer.
	return ignore(writeFile(s.tmp(), s.durablePath(), b), unix.ENOSPC)
}

// syncEvery is how often builds that write make what earlier ones wrote durable. It is
// twice what the kernel lets pass before it writes by itself (dirty_expire_centisecs, 30 s),
// so that there is little left to wait for.
const syncEvery = time.Minute

// syncEarlier makes what earlier builds wrote durable, beside the work of this one. A build
// that runs nothing never calls it.
func (s *Store) syncEarlier() {
	s.syncing.Do(func() {
		known := s.readDurable()
		if time.Since(known.At) < syncEvery {
			return
		}
		s.background.Go(func() {
			// It is tried again by the next build.
			_ = s.sync(known.Boot)
		})
	})
}

// Close lets go of the store, and of the connections to all places that it asked.
func (s *Store) Close() error {
	s.background.Wait()
	s.openedLock.Lock()
	defer s.openedLock.Unlock()
	for _, place := range s.opened {
		place.Close()
	}
	return s.lease.Close()
}
