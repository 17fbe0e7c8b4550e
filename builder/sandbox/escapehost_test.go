package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// The host that the prober of testdata/escape looks for: what it must not reach is laid out here.

// bait is the prober's argument; see there.
type bait struct {
	PID              int
	Secret, Content  string
	Variable         string
	Abstract         string
	TCP, UDP, Remote []string
	Disk             [2]int
	Shm              int
	Queue            string
}

func init() { helpers["escape"] = escapeHost }

// escapeHost lays out the bait, runs the prober under every tool and prints the findings.
func escapeHost() {
	base := os.Getenv("SANDBOX_TEST_BASE")
	h := &hostSide{base: base, results: map[string][]finding{}}
	err := h.prepare()
	if err == nil {
		err = h.runAll()
	}
	h.close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(h.results)
}

type hostSide struct {
	base    string
	bait    bait
	results map[string][]finding
	undo    []func()
}

func (h *hostSide) close() {
	for _, f := range h.undo {
		f()
	}
}

func (h *hostSide) prepare() error {
	h.bait = bait{Variable: "ESCAPE_BAIT", Abstract: fmt.Sprint("escape-bait-", os.Getpid()), Content: fmt.Sprint("bait ", os.Getpid())}
	h.bait.Secret = filepath.Join(h.base, "bait")
	// A descriptor that is not closed by exec, for whoever does not close it.
	if _, err := syscall.Open(h.base, syscall.O_RDONLY, 0); err != nil {
		return err
	}
	if err := os.WriteFile(h.bait.Secret, []byte(h.bait.Content), 0o644); err != nil {
		return err
	}
	for _, f := range []func() error{h.process, h.disk, h.sharedMemory, h.queue, h.addresses, h.services} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (h *hostSide) process() error {
	c := exec.Command("sleep", "300")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	h.bait.PID = c.Process.Pid
	h.undo = append(h.undo, func() { c.Process.Kill(); c.Wait() })
	return nil
}

func (h *hostSide) disk() error {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return err
	}
	h.bait.Disk = [2]int{int(unix.Major(st.Dev)), int(unix.Minor(st.Dev))}
	return nil
}

func (h *hostSide) sharedMemory() error {
	h.bait.Shm = 0x6573<<16 | os.Getpid()&0xffff
	id, err := unix.SysvShmGet(h.bait.Shm, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		return err
	}
	h.undo = append(h.undo, func() { unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	return nil
}

func (h *hostSide) queue() error {
	h.bait.Queue = h.bait.Abstract
	name, err := unix.BytePtrFromString(h.bait.Queue)
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o666, 0, 0, 0)
	if errno == unix.ENOSYS {
		return nil
	}
	if errno != 0 {
		return errno
	}
	unix.Close(int(fd))
	h.undo = append(h.undo, func() { unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0) })
	return nil
}

// addresses gives this network namespace what a cloud's machine has.
func (h *hostSide) addresses() error {
	for _, args := range []string{"link set lo up", "addr add 169.254.169.254/32 dev lo", "addr add 169.254.1.1/32 dev lo",
		"addr add 10.99.0.1/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}

func (h *hostSide) services() error {
	for _, address := range []string{"127.0.0.1:7391", "[::1]:7391", "169.254.169.254:80", "169.254.1.1:7391", "10.99.0.1:7392"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		go greet(l)
		go greetPackets(u)
		if strings.HasPrefix(address, "10.") {
			h.bait.Remote = append(h.bait.Remote, address)
			continue
		}
		h.bait.TCP, h.bait.UDP = append(h.bait.TCP, address), append(h.bait.UDP, address)
	}
	l, err := net.Listen("unix", "@"+h.bait.Abstract)
	if err == nil {
		go greet(l)
	}
	return err
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			bufio.NewReader(c).ReadString('\n')
			c.Write([]byte("host\n"))
		}()
	}
}

func greetPackets(c net.PacketConn) {
	b := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo([]byte("host\n"), from)
	}
}

// runAll runs the prober under every tool that is here.
func (h *hostSide) runAll() error {
	argument, err := json.Marshal(h.bait)
	if err != nil {
		return err
	}
	for name, run := range map[string]func(string) ([]byte, error){
		"builder":         h.builder,
		"runc":            h.runc,
		"buildah, chroot": func(a string) ([]byte, error) { return h.buildah(a, "--isolation=chroot") },
		"buildah, runc": func(a string) ([]byte, error) {
			return h.buildah(a, "--isolation=oci", "--runtime=runc", "--network=none")
		},
	} {
		out, err := run(string(argument))
		if errors.Is(err, errNotHere) {
			continue
		}
		if err == nil {
			h.results[name], err = parseFindings(out)
		}
		if err != nil && name == "builder" {
			return err
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		}
	}
	return nil
}

func parseFindings(out []byte) (list []finding, err error) {
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var f finding
		if err := d.Decode(&f); err != nil {
			return nil, fmt.Errorf("%w in %s", err, out)
		}
		list = append(list, f)
	}
	if len(list) == 0 {
		return nil, errors.New("the prober found nothing")
	}
	return list, nil
}

func (h *hostSide) builder(argument string) ([]byte, error) {
	var out, complaints bytes.Buffer
	dir := func(name string) string { return filepath.Join(h.base, name) }
	err := Run(context.Background(), Spec{
		Tree: overlay.Stack{dir("lower")}, Upper: dir("upper"), Work: dir("work"), Scratch: dir("scratch"),
		Args: []string{"/escape", argument}, Stdout: &out, Stderr: &complaints,
		Warn: func(text string) { fmt.Fprintln(os.Stderr, text) },
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaints.Bytes())
	}
	return out.Bytes(), err
}

// runc runs the prober with the spec that runc makes when nobody says anything.
func (h *hostSide) runc(argument string) ([]byte, error) {
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, errNotHere
	}
	bundle := filepath.Join(h.base, "bundle")
	if err := os.Mkdir(bundle, 0o755); err != nil {
		return nil, err
	}
	if out, err := command(bundle, "runc", "spec"); err != nil {
		return out, err
	}
	file := filepath.Join(bundle, "config.json")
	var spec map[string]any
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		return nil, err
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/escape", argument}
	spec["root"].(map[string]any)["path"] = filepath.Join(h.base, "lower")
	if text, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return nil, err
	}
	return command(bundle, "runc", "--root", filepath.Join(h.base, "runc"), "run", "escape-"+strconv.Itoa(os.Getpid()))
}

func (h *hostSide) buildah(argument string, isolation ...string) ([]byte, error) {
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, errNotHere
	}
	buildah := func(args ...string) ([]byte, error) {
		return command(h.base, "buildah", append([]string{"--storage-driver=vfs", "--root=" + filepath.Join(h.base, "storage"),
			"--runroot=" + filepath.Join(h.base, "runroot")}, args...)...)
	}
	out, err := buildah("from", "scratch")
	if err != nil {
		return out, err
	}
	id := strings.TrimSpace(string(out))
	if out, err := buildah("copy", id, filepath.Join(h.base, "lower"), "/"); err != nil {
		return out, err
	}
	return buildah(append(append([]string{"run"}, isolation...), id, "--", "/escape", argument)...)
}

func command(dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	var complaints bytes.Buffer
	c.Stderr = &complaints
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, err, complaints.Bytes())
	}
	return out, err
}
