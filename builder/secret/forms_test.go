package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"builder/builder/secret"
)

// TestForms: whatever stands around a value, base64 and JSON do not hide it.
func TestForms(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := 5; n < 80; n++ {
		value := make([]byte, n)
		for i := range value {
			value[i] = byte(33 + random.IntN(94))
		}
		value[n/2] = "\"\\<\n"[n%4]
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
			for before := range 4 {
				for after := range 4 {
					around := bytes.Join([][]byte{bytes.Repeat([]byte{'u'}, before), value, bytes.Repeat([]byte{'v'}, after)}, nil)
					if !finds(value, []byte(e.EncodeToString(around))) {
						t.Fatalf("%q in base64, %d bytes before and %d after", value, before, after)
					}
				}
			}
		}
		text, err := json.Marshal("a" + string(value) + "b")
		if err != nil || !finds(value, text) {
			t.Errorf("%q in %s, %v", value, text, err)
		}
		if finds(value, []byte(base64.StdEncoding.EncodeToString(value[1:]))) {
			t.Errorf("%q found where it is not", value)
		}
	}
}

func finds(value, text []byte) bool {
	f := secret.NewFinder(map[string][]byte{"v": value})
	f.Write(text)
	return len(f.Found()) > 0
}
