package child

import (
	"math"
	"reflect"
	"strings"
	"testing"
)

// TestWire: every kind of op comes back as it was, whatever bytes and however many there are in it.
func TestWire(t *testing.T) {
	var ops []Op
	for _, k := range kinds {
		v := reflect.New(reflect.TypeOf(k)).Elem()
		fill(t, v, 1)
		ops = append(ops, v.Interface().(Op))
	}
	large := Exec{Args: []string{strings.Repeat("\xff\x00", 1<<20)}, Groups: make([]uint32, 100_000)}
	ops = append(ops, large, Exec{}, Mask{})
	b := Encode(ops)
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, ops) {
		t.Fatalf("%v", err)
	}
	for _, n := range []int{1, 2, 10, len(b) - 1} {
		if got, err := Decode(b[:n]); err == nil && len(got) >= len(ops) {
			t.Errorf("%d of %d bytes are enough", n, len(b))
		}
	}
}

// fill sets every field to something else than zero.
func fill(t *testing.T, v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("\xfe", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(-int64(n) << 40)
	case reflect.Uint8:
		v.SetUint(200)
	case reflect.Uint16:
		v.SetUint(1<<16 - uint64(n))
	case reflect.Uint32:
		v.SetUint(1<<32 - uint64(n))
	case reflect.Uint64:
		v.SetUint(math.MaxUint64 - uint64(n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(t, v.Index(i), n+i)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n+i)
		}
	default:
		t.Fatalf("%s: no wire form", v.Type())
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]Op{Bind{From: "/a", Path: "b"}, Exec{Args: []string{"x"}, Limits: []Rlimit{{"core", 4, 0, 0}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := Decode(b)
		if err != nil {
			return
		}
		if again, err := Decode(Encode(ops)); err != nil || !reflect.DeepEqual(again, ops) {
			t.Errorf("%v: %v", ops, err)
		}
	})
}
