package store

import "testing"

func TestStore(t *testing.T) {
	s := New()
	a, b := s.Put([]byte("x")), s.Put([]byte("x"))
	if a != b {
		t.Errorf("equal texts, ids %s and %s", a, b)
	}
	if n, size := s.Stat(); n != 1 || size != 1 {
		t.Errorf("%d texts of %d bytes", n, size)
	}
	if _, ok := s.Get("unknown"); ok {
		t.Error("found what was never put")
	}
}
