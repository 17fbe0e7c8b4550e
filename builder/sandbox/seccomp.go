package sandbox

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Docker's default profile is turned into a filter program here. The library that could do it, go-seccomp-bpf, makes
// programs for one architecture only, so that the 32-bit calls of amd64, allowed to containers, would all be refused; it
// tests one call after the other; and its tables take 0.2 ms of every start of the program.

// capabilities are those that Docker gives a container, less three: CAP_NET_RAW, as ping works without and nothing else in
// a build makes raw packets; CAP_AUDIT_WRITE, as the messages are the machine's; CAP_MKNOD, as no node would open a device.
// Podman and buildah have no more by default, which says that the world's Dockerfiles do without.
var capabilities = []struct {
	name string
	bit  int
}{
	{"CAP_CHOWN", unix.CAP_CHOWN}, {"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE}, {"CAP_FSETID", unix.CAP_FSETID},
	{"CAP_FOWNER", unix.CAP_FOWNER}, {"CAP_SETGID", unix.CAP_SETGID}, {"CAP_SETUID", unix.CAP_SETUID},
	{"CAP_SETFCAP", unix.CAP_SETFCAP}, {"CAP_SETPCAP", unix.CAP_SETPCAP}, {"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE},
	{"CAP_SYS_CHROOT", unix.CAP_SYS_CHROOT}, {"CAP_KILL", unix.CAP_KILL},
}

func capabilitySet() (set uint64) {
	for _, c := range capabilities {
		set |= 1 << c.bit
	}
	return set
}

// CheckFilter tells whether commands can have their system call filter.
func CheckFilter() error {
	if _, err := seccompFilter(); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// seccompFilter is the filter program for our capabilities on this machine, made once (0.3 ms).
var seccompFilter = sync.OnceValues(func() ([]byte, error) {
	profile, err := defaultProfile()
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	all, err := architectures()
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	prog, err := compile(profile, all)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return prog.bytes(), nil
})

func defaultProfile() (*specs.LinuxSeccomp, error) {
	caps := &specs.LinuxCapabilities{}
	for _, c := range capabilities {
		caps.Bounding = append(caps.Bounding, c.name)
	}
	return profiles.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: caps}})
}

// architecture is one whose calls a filter tells apart.
type architecture struct {
	name    string
	audit   uint32         // AUDIT_ARCH_, as a filter sees it
	numbers map[string]int // by name of the call
}

//go:embed syscalls.txt
var syscallTable string

// allArchitectures are the columns of the table.
func allArchitectures() ([]architecture, error) {
	all := []architecture{
		{name: "amd64", audit: unix.AUDIT_ARCH_X86_64}, {name: "386", audit: unix.AUDIT_ARCH_I386},
		{name: "arm64", audit: unix.AUDIT_ARCH_AARCH64}, {name: "arm", audit: unix.AUDIT_ARCH_ARM},
	}
	for i := range all {
		all[i].numbers = make(map[string]int, 512)
	}
	for line := range strings.Lines(syscallTable) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		for i, text := range f[1:] {
			if text == "-" {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil {
				return nil, err
			}
			all[i].numbers[f[0]] = n
		}
	}
	return all, nil
}

// architectures are those whose programs run here. Calls of any other are refused: x32's too, which share amd64's
// architecture but have bit 30 set in their numbers.
func architectures() ([]architecture, error) {
	compatible := map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH]
	all, err := allArchitectures()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(a architecture) bool { return a.name != runtime.GOARCH && a.name != compatible })
	if len(all) == 0 {
		return nil, fmt.Errorf("no system call table for %s", runtime.GOARCH)
	}
	return all, nil
}

// Offsets in struct seccomp_data, and instructions of classic BPF.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16

	opLoad    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opJump    = unix.BPF_JMP | unix.BPF_JA
	opEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGreater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opReturn  = unix.BPF_RET | unix.BPF_K
)

// maxProgram is BPF_MAXINSNS.
const maxProgram = 4096

type program []unix.SockFilter

// bytes are the program as an array of struct sock_filter.
func (p program) bytes() (b []byte) {
	for _, in := range p {
		b = binary.NativeEndian.AppendUint16(b, in.Code)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return b
}

// compile makes the program: for each architecture a block that ends in a return, behind a test for it.
func compile(p *specs.LinuxSeccomp, arches []architecture) (program, error) {
	prog := program{{Code: opLoad, K: offArch}}
	for _, a := range arches {
		block, err := compileArch(p, a)
		if err != nil {
			return nil, err
		}
		prog = append(prog, unix.SockFilter{Code: opEqual, Jt: 1, K: a.audit}, unix.SockFilter{Code: opJump, K: uint32(len(block))})
		prog = append(prog, block...)
	}
	prog = append(prog, unix.SockFilter{Code: opReturn, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	if len(prog) > maxProgram {
		return nil, fmt.Errorf("%d instructions, the kernel takes %d", len(prog), maxProgram)
	}
	return prog, nil
}

// rule is what happens to a call if all conditions hold. Of several rules the first that fits counts.
type rule struct {
	verdict uint32
	args    []specs.LinuxSeccompArg
}

// compileArch makes one architecture's block: a search tree over the call numbers. Its depth is what a system call costs,
// and, as the kernel tries every number when a filter is loaded, most of what loading costs. A number above all that the
// profile knows is a call newer than the profile; it is answered as by an older kernel, so that programs fall back to
// what they did before it existed.
func compileArch(p *specs.LinuxSeccomp, a architecture) (program, error) {
	fallback, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	rules, err := rulesOf(p, a)
	if err != nil {
		return nil, err
	}
	numbers := slices.Sorted(maps.Keys(rules))
	var leaves []leaf
	for rest := numbers; len(rest) > 0; {
		n := runLength(rest, rules)
		l := leaf{first: uint32(rest[0]), last: uint32(rest[n-1]), rules: rules[rest[0]]}
		if l.code, err = l.compile(fallback); err != nil {
			return nil, fmt.Errorf("call %d of %s: %w", rest[0], a.name, err)
		}
		leaves, rest = append(leaves, l), rest[n:]
	}
	block := program{
		{Code: opLoad, K: offNumber},
		{Code: opGreater, Jf: 1, K: uint32(numbers[len(numbers)-1])},
		{Code: opReturn, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	return append(block, search(leaves)...), nil
}

// leaf is a run of consecutive numbers that are treated alike.
type leaf struct {
	first, last uint32
	rules       []rule
	code        program // ends in a return whatever the number
}

func (l leaf) compile(fallback uint32) (program, error) {
	if l.rules[0].args == nil {
		return program{
			{Code: opAtLeast, Jf: 2, K: l.first}, {Code: opGreater, Jt: 1, K: l.last},
			{Code: opReturn, K: l.rules[0].verdict}, {Code: opReturn, K: fallback},
		}, nil
	}
	return conditional(l.first, l.rules, fallback)
}

// search makes the tree: halves behind a comparison, the first leaf of the right half decides.
func search(leaves []leaf) program {
	if len(leaves) == 1 {
		return leaves[0].code
	}
	middle := len(leaves) / 2
	left, right := search(leaves[:middle]), search(leaves[middle:])
	p := program{{Code: opAtLeast, Jf: 1, K: leaves[middle].first}, {Code: opJump, K: uint32(len(left))}}
	return append(append(p, left...), right...)
}

// runLength counts the numbers from the first on that are consecutive and have the same unconditional rule.
func runLength(numbers []int, rules map[int][]rule) int {
	first := rules[numbers[0]][0]
	n := 1
	for ; n < len(numbers) && first.args == nil; n++ {
		r := rules[numbers[n]][0]
		if numbers[n] != numbers[0]+n || r.args != nil || r.verdict != first.verdict {
			break
		}
	}
	return n
}

// rulesOf sorts the profile's rules by call number. Names that the architecture's table does not have are left out: they
// are calls of other architectures, or too new.
func rulesOf(p *specs.LinuxSeccomp, a architecture) (map[int][]rule, error) {
	rules := map[int][]rule{}
	for _, s := range p.Syscalls {
		v, err := verdict(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range s.Names {
			n, ok := a.numbers[name]
			if !ok {
				continue
			}
			if have := rules[n]; len(have) > 0 && have[len(have)-1].args == nil {
				continue // what comes after an unconditional rule is never reached
			}
			rules[n] = append(rules[n], rule{v, s.Args})
		}
	}
	return rules, nil
}

func verdict(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		if errno == nil {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), nil
		}
		return unix.SECCOMP_RET_ERRNO | uint32(*errno)&unix.SECCOMP_RET_DATA, nil
	}
	return 0, fmt.Errorf("no code for action %s", a)
}

// conditional makes the test of one call whose rules look at arguments.
func conditional(number uint32, rules []rule, fallback uint32) (program, error) {
	p := program{{Code: opEqual, Jt: 1, K: number}, {Code: opReturn, K: fallback}}
	for _, r := range rules {
		var conditions program
		for i := len(r.args) - 1; i >= 0; i-- {
			test, err := condition(r.args[i], len(conditions)+1)
			if err != nil {
				return nil, err
			}
			conditions = append(test, conditions...)
		}
		p = append(append(p, conditions...), unix.SockFilter{Code: opReturn, K: r.verdict})
	}
	return append(p, unix.SockFilter{Code: opReturn, K: fallback}), nil
}

// condition makes the test of one 64-bit argument, in two halves. If it fails, skip instructions behind it are skipped.
func condition(c specs.LinuxSeccompArg, skip int) (program, error) {
	if skip+3 > math.MaxUint8 {
		return nil, errors.New("too many conditions")
	}
	fail := uint8(skip)
	high, low := uint32(offArgs+8*c.Index+4), uint32(offArgs+8*c.Index)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		high, low = low, high
	}
	masked := func(want, mask uint64) program {
		return program{
			{Code: opLoad, K: high},
			{Code: opAnd, K: uint32(mask >> 32)},
			{Code: opEqual, Jf: fail + 3, K: uint32(want >> 32)},
			{Code: opLoad, K: low},
			{Code: opAnd, K: uint32(mask)},
			{Code: opEqual, Jf: fail, K: uint32(want)},
		}
	}
	switch c.Op {
	case specs.OpEqualTo:
		return masked(c.Value, math.MaxUint64), nil
	case specs.OpMaskedEqual:
		return masked(c.ValueTwo, c.Value), nil
	case specs.OpLessThan:
		return program{
			{Code: opLoad, K: high},
			{Code: opGreater, Jt: fail + 3, K: uint32(c.Value >> 32)},
			{Code: opEqual, Jf: 2, K: uint32(c.Value >> 32)},
			{Code: opLoad, K: low},
			{Code: opAtLeast, Jt: fail, K: uint32(c.Value)},
		}, nil
	}
	return nil, fmt.Errorf("no code for operator %s", c.Op)
}
