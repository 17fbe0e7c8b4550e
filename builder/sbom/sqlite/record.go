package sqlite

// Value is one value of a row. NULL and real numbers, which nobody asks for yet, are the zero Value.
type Value struct {
	Int   int64
	Bytes []byte // a text's or a blob's
}

// maxColumns is the most that SQLite itself allows.
const maxColumns = 32767

// record reads a row: the length of its header, in it a type for each value, behind it the values (section 2.1).
func record(b []byte) ([]Value, error) {
	size, n := varint(b)
	if n == 0 || size < uint64(n) || size > uint64(len(b)) {
		return nil, ErrDamaged
	}
	types, body := b[n:size], b[size:]
	var values []Value
	for len(types) > 0 {
		kind, n := varint(types)
		length := bytesOf(kind)
		if n == 0 || length > uint64(len(body)) || len(values) == maxColumns {
			return nil, ErrDamaged
		}
		values = append(values, value(kind, body[:length]))
		types, body = types[n:], body[length:]
	}
	return values, nil
}

// bytesOf is how many bytes a value of such a type takes.
func bytesOf(kind uint64) uint64 {
	if kind >= 12 {
		return (kind - 12) / 2
	}
	return uint64("\x00\x01\x02\x03\x04\x06\x08\x08\x00\x00\x00\x00"[kind])
}

func value(kind uint64, b []byte) (v Value) {
	switch {
	case kind >= 12:
		v.Bytes = b
	case kind == 8 || kind == 9:
		v.Int = int64(kind - 8)
	case kind >= 1 && kind <= 6: // two's complement, the highest byte first
		v.Int = int64(int8(b[0]))
		for _, c := range b[1:] {
			v.Int = v.Int<<8 | int64(c)
		}
	}
	return v
}

// varint reads a number of one to nine bytes, and how many they are; none if they are not all there. The last of nine has
// eight bits, all others seven (section 1.6).
func varint(b []byte) (n uint64, used int) {
	for i, c := range b {
		if i == 8 {
			return n<<8 | uint64(c), 9
		}
		if n = n<<7 | uint64(c&0x7f); c < 0x80 {
			return n, i + 1
		}
	}
	return 0, 0
}
