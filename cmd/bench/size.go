package main

import (
	"fmt"
	"strconv"
)

// size is a number of bytes; as a flag it may end in K, M or G, powers of 1024.
type size int64

var units = []struct {
	letter byte
	bytes  size
}{{'G', 1 << 30}, {'M', 1 << 20}, {'K', 1 << 10}}

// Set reads a flag's value.
func (s *size) Set(text string) error {
	factor, digits := size(1), text
	for _, u := range units {
		if n := len(text) - 1; n > 0 && text[n] == u.letter {
			factor, digits = u.bytes, text[:n]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("it must be a number of bytes, or one with K, M or G")
	}
	*s = size(n) * factor
	return nil
}

// String has the largest unit that leaves a number of at least one.
func (s size) String() string {
	for _, u := range units {
		if s >= u.bytes {
			return fmt.Sprintf("%.3g%c", float64(s)/float64(u.bytes), u.letter)
		}
	}
	return fmt.Sprint(int64(s))
}
