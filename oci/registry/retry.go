package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	maxRetries = 5
	// mirrorRetries are those of a host that others can stand in for.
	mirrorRetries = 1
	firstWait     = 250 * time.Millisecond
	maxWait       = 30 * time.Second // also of what a server may ask for
)

// policy is when a request is sent again: on 408, 429 and server errors, when a
// connection breaks before an answer, and when a host that has answered before
// refuses it, as while it is restarted. It implements retry.Policy.
type policy struct {
	tries    int
	answered func() bool // whether the host has answered anything
}

// Retry implements retry.Policy: the wait, or -1 for no more.
func (p policy) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	gone := errors.Is(err, syscall.ECONNREFUSED) && p.answered()
	if attempt >= p.tries || !gone && !temporary(resp, err) {
		return -1, nil
	}
	if resp != nil {
		if wait, ok := retryAfter(resp.Header.Get("Retry-After")); ok {
			return min(wait, maxWait), nil
		}
	}
	return backoff(attempt), nil
}

// temporary reports whether the same request may succeed later.
func temporary(resp *http.Response, err error) bool {
	if err != nil {
		return isCut(err)
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isCut reports whether an error is that of a broken or timed out connection.
func isCut(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var timeout net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || (errors.As(err, &timeout) && timeout.Timeout())
}

// retryAfter reads the header's two forms, seconds and a date.
func retryAfter(v string) (time.Duration, bool) {
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t)), true
	}
	return 0, false
}

// backoff doubles from firstWait and scatters by a tenth.
func backoff(attempt int) time.Duration {
	wait := min(firstWait<<attempt, maxWait)
	return wait + rand.N(wait/10)
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
