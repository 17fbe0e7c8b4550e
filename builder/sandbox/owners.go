package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// ownerCalls are the calls that child.Owners answers.
var ownerCalls = map[string]child.Call{
	"chown":      {Verb: child.VerbChown, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Value: 1},
	"lchown":     {Verb: child.VerbChown, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Value: 1, Always: unix.AT_SYMLINK_NOFOLLOW},
	"fchown":     {Verb: child.VerbChown, Dir: 0, Path: child.NoArg, Flags: child.NoArg, Value: 1, Always: unix.AT_EMPTY_PATH},
	"fchownat":   {Verb: child.VerbChown, Dir: 0, Path: 1, Flags: 4, Value: 2},
	"stat":       {Verb: child.VerbStat, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Value: 1},
	"lstat":      {Verb: child.VerbStat, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Value: 1, Always: unix.AT_SYMLINK_NOFOLLOW},
	"fstat":      {Verb: child.VerbStat, Dir: 0, Path: child.NoArg, Flags: child.NoArg, Value: 1, Always: unix.AT_EMPTY_PATH},
	"newfstatat": {Verb: child.VerbStat, Dir: 0, Path: 1, Flags: 3, Value: 2},
	"fstatat":    {Verb: child.VerbStat, Dir: 0, Path: 1, Flags: 3, Value: 2},
	"statx":      {Verb: child.VerbStatx, Dir: 0, Path: 1, Flags: 2, Value: 4},
	"rename":     {Verb: child.VerbKeep, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Always: unix.AT_SYMLINK_NOFOLLOW},
	"renameat":   {Verb: child.VerbKeep, Dir: 0, Path: 1, Flags: child.NoArg, Always: unix.AT_SYMLINK_NOFOLLOW},
	"renameat2":  {Verb: child.VerbKeep, Dir: 0, Path: 1, Flags: child.NoArg, Always: unix.AT_SYMLINK_NOFOLLOW},
	"link":       {Verb: child.VerbKeep, Dir: child.NoArg, Path: 0, Flags: child.NoArg, Always: unix.AT_SYMLINK_NOFOLLOW},
	"linkat":     {Verb: child.VerbKeep, Dir: 0, Path: 1, Flags: 4, Always: unix.AT_SYMLINK_NOFOLLOW},
	"utimensat":  {Verb: child.VerbKeep, Dir: 0, Path: 1, Flags: 3},
}

// compatible are the names that 32-bit programs have for some of them. Their old stat calls, whose results have another
// form, are not answered.
var compatible = map[string]string{
	"chown32": "chown", "lchown32": "lchown", "fchown32": "fchown", "fchownat": "fchownat", "statx": "statx",
	"rename": "rename", "renameat": "renameat", "renameat2": "renameat2", "link": "link", "linkat": "linkat",
	"utimensat": "utimensat", "utimensat_time64": "utimensat",
}

// ownerFilter is the program that stops at those calls, and the calls.
var ownerFilter = sync.OnceValues(func() (op child.Owners, err error) {
	all, err := architectures()
	if err != nil {
		return op, err
	}
	prog := program{{Code: opLoad, K: offArch}}
	for _, a := range all {
		calls := ownerCallsOf(a)
		op.Calls = append(op.Calls, calls...)
		prog = append(prog, unix.SockFilter{Code: opEqual, Jf: uint8(len(calls) + 3), K: a.audit}, unix.SockFilter{Code: opLoad, K: offNumber})
		for i, c := range calls {
			prog = append(prog, unix.SockFilter{Code: opEqual, Jt: uint8(len(calls) - i), K: c.Number})
		}
		prog = append(prog, unix.SockFilter{Code: opReturn, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: opReturn, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	prog = append(prog, unix.SockFilter{Code: opReturn, K: unix.SECCOMP_RET_ALLOW})
	op.Filter = prog.bytes()
	return op, nil
})

func ownerCallsOf(a architecture) (calls []child.Call) {
	for name, n := range a.numbers {
		known := name
		if a.name != runtime.GOARCH {
			known = compatible[name]
		}
		if c, ok := ownerCalls[known]; ok {
			c.Arch, c.Number = a.audit, uint32(n)
			calls = append(calls, c)
		}
	}
	slices.SortFunc(calls, func(a, b child.Call) int { return int(a.Number) - int(b.Number) })
	return calls
}

// checkListener tells whether calls can be listened to. It loads the filter in a thread that ends then.
var checkListener = sync.OnceValue(func() error {
	op, err := ownerFilter()
	if err != nil {
		return err
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := child.Listen(op.Filter)
		if err == nil {
			unix.Close(fd)
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("listen to system calls: %w", err)
	}
	return nil
})

// answerOwners has the child answer for owners where there is one id. It comes when the trees are copied.
func (r *run) answerOwners(ops []child.Op) ([]child.Op, error) {
	ids, err := CurrentIDs()
	if err != nil || ids.CheckOwners() != nil {
		return ops, err
	}
	op, err := ownerFilter()
	if err != nil {
		return nil, err
	}
	stack := r.spec.Tree
	if r.spec.Upper != "" {
		stack = append(overlay.Stack{r.spec.Upper}, stack...)
		r.noted = r.spec.Upper
	}
	if r.tree != "" {
		stack = overlay.Stack{r.tree}
		r.noted = r.tree
	}
	if op.Notes, err = overlay.ReadNotes(stack); err != nil {
		return nil, err
	}
	last := len(ops) - 1
	return append(ops[:last:last], op, ops[last]), nil
}

// takeNotes takes over what the child's command left.
func (r *run) takeNotes(data []byte) error {
	size := binary.Size(overlay.Note{})
	if len(data)%size != 0 {
		return errors.New("sandbox: notes of owners are cut short")
	}
	list := make([]overlay.Note, len(data)/size)
	err := binary.Read(bytes.NewReader(data), binary.LittleEndian, list)
	r.notes = append(r.notes, list...)
	return err
}

// keepNotes has them last.
func (r *run) keepNotes(ctx context.Context) error {
	if r.noted == "" {
		return nil
	}
	return overlay.WriteNotes(ctx, r.noted, r.notes)
}
