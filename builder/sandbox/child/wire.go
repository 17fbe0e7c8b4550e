package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
)

// The wire form of a list of ops: for each its place in kinds, then its fields in order. Numbers are varints, strings
// and lists begin with their length. No length has a limit; strings may hold any bytes.

var errShort = errors.New("list of ops is cut short")

// Encode turns ops into bytes.
func Encode(ops []Op) []byte {
	var b []byte
	for _, op := range ops {
		b = append(b, kindOf(op))
		b = appendValue(b, reflect.ValueOf(op))
	}
	return b
}

func kindOf(op Op) byte {
	for i, k := range kinds {
		if reflect.TypeOf(k) == reflect.TypeOf(op) {
			return byte(i)
		}
	}
	panic(fmt.Sprintf("%T is missing in kinds", op))
}

func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.String:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.String()...)
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int:
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint())
	case reflect.Slice:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(b, v.Bytes()...)
		}
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
		return b
	case reflect.Struct:
		for i := range v.NumField() {
			b = appendValue(b, v.Field(i))
		}
		return b
	}
	panic("no wire form for " + v.Type().String())
}

// Decode is the inverse of Encode.
func Decode(b []byte) ([]Op, error) {
	r := &reader{b: b}
	var ops []Op
	for len(r.b) > 0 {
		kind := int(r.take(1)[0])
		if kind >= len(kinds) {
			return nil, fmt.Errorf("unknown op %d", kind)
		}
		v := reflect.New(reflect.TypeOf(kinds[kind])).Elem()
		r.value(v)
		if r.err != nil {
			return nil, r.err
		}
		ops = append(ops, v.Interface().(Op))
	}
	return ops, nil
}

// reader takes values off the front of b. After an error it yields zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errShort
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) uvarint() uint64 {
	u, n := binary.Uvarint(r.b)
	if n <= 0 {
		n = -1
	}
	r.take(n)
	return u
}

func (r *reader) varint() int64 {
	i, n := binary.Varint(r.b)
	if n <= 0 {
		n = -1
	}
	r.take(n)
	return i
}

// length is a count of things that take at least one byte each, so that no input makes us allocate more than it has.
func (r *reader) length() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.err = errShort
		return 0
	}
	return int(n)
}

func (r *reader) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(r.take(r.length())))
	case reflect.Bool:
		v.SetBool(r.uvarint() != 0)
	case reflect.Int:
		v.SetInt(r.varint())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.uvarint())
	case reflect.Slice:
		r.slice(v)
	case reflect.Struct:
		for i := range v.NumField() {
			r.value(v.Field(i))
		}
	}
}

func (r *reader) slice(v reflect.Value) {
	n := r.length()
	if n == 0 {
		return
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(r.take(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		if r.value(v.Index(i)); r.err != nil {
			return
		}
	}
}
