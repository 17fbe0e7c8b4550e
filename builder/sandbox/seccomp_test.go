package sandbox

import (
	"encoding/binary"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// evaluate runs a program over a call as the kernel would.
func evaluate(t *testing.T, prog program, archID, number uint32, args [6]uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data, number)
	binary.NativeEndian.PutUint32(data[4:], archID)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	var a uint32
	jump := func(in unix.SockFilter, taken bool) int {
		if taken {
			return int(in.Jt)
		}
		return int(in.Jf)
	}
	for pc := 0; ; pc++ {
		in := prog[pc]
		switch in.Code {
		case opLoad:
			a = binary.NativeEndian.Uint32(data[in.K:])
		case opAnd:
			a &= in.K
		case opJump:
			pc += int(in.K)
		case opEqual:
			pc += jump(in, a == in.K)
		case opGreater:
			pc += jump(in, a > in.K)
		case opAtLeast:
			pc += jump(in, a >= in.K)
		case opReturn:
			return in.K
		default:
			t.Fatalf("instruction %d: %+v", pc, in)
		}
	}
}

// expected reads the profile rule by rule.
func expected(t *testing.T, p *specs.LinuxSeccomp, name string, args [6]uint64) uint32 {
	t.Helper()
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			if n != name || !fits(s.Args, args) {
				continue
			}
			v, err := verdict(s.Action, s.ErrnoRet)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
}

func fits(conditions []specs.LinuxSeccompArg, args [6]uint64) bool {
	for _, c := range conditions {
		a := args[c.Index]
		switch {
		case c.Op == specs.OpEqualTo && a == c.Value, c.Op == specs.OpMaskedEqual && a&c.Value == c.ValueTwo, c.Op == specs.OpLessThan && a < c.Value:
		default:
			return false
		}
	}
	return true
}

// TestFilter compares the program with the profile for every call of every architecture.
func TestFilter(t *testing.T) {
	profile, err := defaultProfile()
	if err != nil {
		t.Fatal(err)
	}
	all, err := allArchitectures()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := compile(profile, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions for %d architectures", len(prog), len(all))
	values := []uint64{0, 1, 2, 8, 37, 38, 39, 40, 45, 0x20000, 0x20008, 0x10000000, unix.CLONE_NEWNS, 0x01200011, 0xffffffff, 1 << 32, 1<<32 | 2, 1<<63 | 38, 1<<64 - 1}
	for _, a := range all {
		for name, number := range a.numbers {
			for _, v := range values {
				args := [6]uint64{v, v, v, v, v, v}
				got, want := evaluate(t, prog, a.audit, uint32(number), args), expected(t, profile, name, args)
				if got != want && got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
					t.Errorf("%s %s(%#x): %#x, want %#x", a.name, name, v, got, want)
				}
			}
		}
		for _, number := range []uint32{1 << 20, 0x40000000, 0xffffffff} {
			if got := evaluate(t, prog, a.audit, number, [6]uint64{}); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
				t.Errorf("%s, call %d: %#x", a.name, number, got)
			}
		}
	}
	if got := evaluate(t, prog, 0xc00000f7, 0, [6]uint64{}); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
		t.Errorf("an architecture that is not in the program: %#x", got)
	}
}

func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		profile, err := defaultProfile()
		if err != nil {
			b.Fatal(err)
		}
		all, err := architectures()
		if err == nil {
			_, err = compile(profile, all)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
