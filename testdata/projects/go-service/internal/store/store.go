// Package store keeps texts in memory under an id that follows from the text.
package store

import (
	"sync"

	"github.com/google/uuid"
)

// Store is a set of texts. Its methods may be called from any goroutine.
type Store struct {
	mu    sync.RWMutex
	texts map[string][]byte
	size  uint64
}

// New returns an empty Store.
func New() *Store { return &Store{texts: map[string][]byte{}} }

// Put keeps text and returns its id; equal texts have equal ids.
func (s *Store) Put(text []byte) string {
	id := uuid.NewSHA1(uuid.NameSpaceOID, text).String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.texts[id]; !known {
		s.texts[id] = text
		s.size += uint64(len(text))
	}
	return id
}

// Get returns the text with the id.
func (s *Store) Get(id string) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	text, ok := s.texts[id]
	return text, ok
}

// Stat returns the number of texts and their bytes.
func (s *Store) Stat() (int, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.texts), s.size
}
