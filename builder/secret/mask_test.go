package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"builder/builder/secret"
)

// masked is text after it went through the masker in the given pieces.
func masked(t testing.TB, m *secret.Masker, pieces ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := m.Writer(&out)
	for _, p := range pieces {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestMask(t *testing.T) {
	m := secret.NewMasker(map[string][]byte{
		"token": []byte("hunter2\n"),
		"long":  []byte("hunter2-and-more"),
		"key":   []byte("-----BEGIN-----\r\n  abcdef\r\nxyz\r\n-----END-----\r\n"),
		"short": []byte("abc"),
		"blank": []byte("      "),
	})
	for text, want := range map[string]string{
		"":                                   "",
		"nothing":                            "nothing",
		"hunter2":                            "[secret token]",
		"hunter2hunter2":                     "[secret token][secret token]",
		"a hunter2\nb":                       "a [secret token]\nb",
		"hunter2-and-less":                   "[secret token]-and-less",
		"hunter2-and-more":                   "[secret long]",
		"hunhunter2":                         "hun[secret token]",
		"abc":                                "abc",
		"abcdef":                             "[secret key]",
		"log: abcdef\nlog: xyz":              "log: [secret key]\nlog: xyz",
		"-----BEGIN-----\r\n  abcdef\r\nxyz": "[secret key]\r\n  [secret key]\r\nxyz",
		"hunter":                             "hunter",
		"      ":                             "      ",
		"-----BEGIN-----\r\n  abcdef\r\nxyz\r\n-----END-----\n": "[secret key]\n",
	} {
		for cut := range len(text) + 1 {
			if got := masked(t, m, text[:cut], text[cut:]); got != want {
				t.Fatalf("%q cut at %d is %q, want %q", text, cut, got, want)
			}
		}
	}
}

// TestMaskRandom compares streams cut at random places with the plain definition: at each place the longest value.
func TestMaskRandom(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		values, words := map[string][]byte{}, []string{}
		for i := range 1 + rng.IntN(5) {
			word := letters(rng, 4+rng.IntN(8))
			values[fmt.Sprint(i)] = []byte(word)
			words = append(words, word)
		}
		var text strings.Builder
		for range 200 {
			word := words[rng.IntN(len(words))]
			text.WriteString(word[rng.IntN(2):] + letters(rng, rng.IntN(4)) + word[:rng.IntN(len(word))])
		}
		var pieces []string
		for rest := text.String(); rest != ""; {
			n := min(1+rng.IntN(12), len(rest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		got, want := masked(t, secret.NewMasker(values), pieces...), plainly(text.String(), values)
		if got != want {
			t.Fatalf("seed %d: %v\n%s\ngot  %s\nwant %s", seed, words, text.String(), got, want)
		}
		for _, word := range words {
			if strings.Contains(got, word) {
				t.Fatalf("seed %d: %s is left in %s", seed, word, got)
			}
		}
	}
}

func letters(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abc"[rng.IntN(3)]
	}
	return string(b)
}

func plainly(text string, values map[string][]byte) string {
	var out strings.Builder
	for text != "" {
		best := ""
		for _, id := range slices.Sorted(keys(values)) {
			if v := string(values[id]); strings.HasPrefix(text, v) && len(v) > len(values[best]) {
				best = id
			}
		}
		if best == "" {
			out.WriteByte(text[0])
			text = text[1:]
			continue
		}
		out.WriteString("[secret " + best + "]")
		text = text[len(values[best]):]
	}
	return out.String()
}

func keys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestMaskHoldsBackNoMoreThanNeeded(t *testing.T) {
	var out bytes.Buffer
	w := secret.NewMasker(map[string][]byte{"a": []byte("password")}).Writer(&out)
	for _, step := range [][2]string{
		{"enter ", "enter "}, {"pa", "enter "}, {"th", "enter path"}, {"passwor", "enter path"}, {"k", "enter pathpasswork"},
	} {
		io.WriteString(w, step[0])
		if out.String() != step[1] {
			t.Fatalf("after %q there is %q, want %q", step[0], out.String(), step[1])
		}
	}
}

func TestMaskWithoutSecrets(t *testing.T) {
	if got := masked(t, secret.Secrets{}.Masker(), "a", "b"); got != "ab" {
		t.Error(got)
	}
}

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestMaskReportsTheWriterBelow(t *testing.T) {
	w := secret.NewMasker(map[string][]byte{"a": []byte("password")}).Writer(broken{})
	if _, err := w.Write([]byte("x pass")); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	if err := w.Flush(); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

func TestFinder(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		values, want := map[string][]byte{}, []string{}
		stream := make([]byte, 300<<10)
		for i := range stream {
			stream[i] = byte(rng.IntN(256))
		}
		at := 0
		for i := range 6 {
			value := make([]byte, 4+rng.IntN(20<<10))
			for k := range value {
				value[k] = 'a' + byte(rng.IntN(26))
			}
			id := fmt.Sprint(i)
			values[id] = append(bytes.Clone(value), '\n')
			if at += rng.IntN(30 << 10); i%2 == 0 {
				copy(stream[at:], value)
				want = append(want, id)
			} else {
				copy(stream[at:], value[1:])
			}
			at += len(value)
		}
		f := secret.NewFinder(values)
		for rest := stream; len(rest) > 0; {
			n := min(1+rng.IntN(100<<10), len(rest))
			f.Write(rest[:n])
			rest = rest[n:]
		}
		if got := f.Found(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: found %v, want %v", seed, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	s, err := secret.Read([]secret.Source{{ID: "a", File: file(t, "line one\nline two\n")}, {ID: "b", File: file(t, "abc")}})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"line one": 0, "xline one\nline two": 1, "abc": 0} {
		if got, err := s.Find(iotestOneByte(text)); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// iotestOneByte reads text one byte at a time.
func iotestOneByte(text string) io.Reader {
	var readers []io.Reader
	for i := range len(text) {
		readers = append(readers, strings.NewReader(text[i:i+1]))
	}
	return io.MultiReader(readers...)
}

func FuzzMask(f *testing.F) {
	f.Add([]byte("abcd\nabce"), []byte("xxabcdabcxabce"), uint8(5))
	f.Fuzz(func(t *testing.T, value, text []byte, cut uint8) {
		m := secret.NewMasker(map[string][]byte{"": value})
		at := min(int(cut), len(text))
		got := masked(t, m, string(text[:at]), string(text[at:]))
		if whole := masked(t, m, string(text)); got != whole {
			t.Errorf("cut at %d: %q, whole: %q", at, got, whole)
		}
	})
}

func BenchmarkMask(b *testing.B) {
	line := []byte("2024-01-01T00:00:00Z gcc -O2 -c -o build/some/file.o src/some/file.c\n")
	text := bytes.Repeat(line, 32<<10/len(line))
	w := secret.NewMasker(map[string][]byte{"a": []byte("hunter2-hunter2"), "b": []byte("gcc-token")}).Writer(io.Discard)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		w.Write(text)
	}
}

func BenchmarkFinder(b *testing.B) {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(rand.IntN(256))
	}
	f := secret.NewFinder(map[string][]byte{"a": []byte("hunter2-hunter2"), "b": []byte("gcc-token")})
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		f.Write(block)
	}
}
