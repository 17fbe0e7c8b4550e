// Command builder builds Dockerfiles into OCI images, without a daemon.
//
// This package turns flags into options, prints results on standard output and
// everything else on standard error, and decides the exit status. It does not know
// how anything is done.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"builder/builder"
	"builder/builder/dockerfile"
	"builder/builder/sandbox"
)

// Exit statuses. A command run by `builder run` has its own.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitRun         = 125
	exitInterrupted = 130
)

func main() {
	sandbox.Init()
	left := newLeftovers()
	spareGC(os.Getenv)
	// A reader that goes away must not end a build. Noticed, not ignored: what is
	// ignored would be so for every command of a step too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(left.end(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// run is the whole program: arguments in, exit status out.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := interruptible()
	defer stop()
	c := newRoot(streams{stdin, stdout, stderr}, stop)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if errors.Is(context.Cause(ctx), errInterrupted) {
		fmt.Fprintln(stderr, "builder: interrupted")
		return exitInterrupted
	}
	if err == nil {
		return 0
	}
	report(stderr, err)
	return status(err)
}

var errInterrupted = errors.New("interrupted")

// interruptible is a context that the first SIGINT or SIGTERM ends; the second one
// kills the program as ever.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if _, ok := <-signals; ok {
			signal.Stop(signals)
			cancel(errInterrupted)
		}
	}()
	return ctx, sync.OnceFunc(func() { signal.Stop(signals); close(signals) })
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// statusError carries the exit status of a container's command. Unless there is a reason
// that the command could not tell, it has been seen failing, and nothing more is said.
type statusError struct {
	code   int
	reason error
}

func (e statusError) Error() string {
	if e.reason != nil {
		return e.reason.Error()
	}
	return fmt.Sprintf("exit status %d", e.code)
}

// runError is a failure of `builder run` before the command began.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

// status is the exit status that err means.
func status(err error) int {
	var code statusError
	if errors.As(err, &code) {
		return code.code
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	if errors.As(err, new(runError)) {
		return exitRun
	}
	return exitFailed
}

// report says on w what went wrong: one message, and for a fault in a Dockerfile the
// lines around it and the end of what the step printed.
func report(w io.Writer, err error) {
	var code statusError
	if errors.As(err, &code) && code.reason == nil {
		return
	}
	var command *builder.CommandError
	if errors.As(err, &command) && len(command.Output) > 0 {
		fmt.Fprintln(w, "the end of the step's output:")
		for _, line := range command.Output {
			fmt.Fprintln(w, "  "+line)
		}
	}
	fmt.Fprintln(w, "builder:", strings.TrimPrefix(dockerfile.ErrorText(err), "builder: "))
	var place *dockerfile.Error
	if errors.As(err, &place) && place.Excerpt != "" {
		fmt.Fprintln(w, strings.TrimRight(place.Excerpt, "\n"))
	}
	if errors.Is(err, syscall.ENOSPC) {
		fmt.Fprintln(w, "A disk is full: df -h and df -i show which; builder prune --all frees what the store holds beside images.")
	}
	if errors.As(err, new(usageError)) {
		fmt.Fprintln(w, "Run 'builder --help' or 'builder COMMAND --help' for usage.")
	}
}
