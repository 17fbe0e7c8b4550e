package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
)

// minBase64 is the length below which a piece of base64 could be anything: 36 bits agree by chance once in gigabytes.
const minBase64 = 6

// forms are the ways in which value may stand in a file, each once; none if it is too short to be told from other text.
func forms(value []byte) [][]byte {
	if len(value) < minLength {
		return nil
	}
	all := [][]byte{bytes.Clone(value), jsonForm(value, false), jsonForm(value, true)}
	for before := range 3 {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if form := base64Form(e, value, before); len(form) >= minBase64 {
				all = append(all, form)
			}
		}
	}
	slices.SortFunc(all, bytes.Compare)
	return slices.CompactFunc(all, bytes.Equal)
}

// jsonForm is value between the quotes of a JSON string. What is no UTF-8 has no such form, and stays as it is.
// Some writers escape what means something in HTML too.
func jsonForm(value []byte, html bool) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if err := e.Encode(string(value)); err != nil {
		return bytes.Clone(value)
	}
	text := bytes.TrimSpace(b.Bytes())
	return text[1 : len(text)-1]
}

// base64Form is the part of value's base64 that depends on value alone when as many bytes stand before it, modulo 3.
func base64Form(e *base64.Encoding, value []byte, before int) []byte {
	text := e.AppendEncode(nil, append(make([]byte, before), value...))
	first := (before*8 + 5) / 6
	end := (before + len(value)) * 8 / 6
	return text[first:end]
}
