package lease

import (
	"context"
	"time"
)

// Pause is how long to wait before asking again for a lock. flock(2) itself could wait,
// but no ctx would end that. The zero Pause has not waited yet.
type Pause time.Duration

const firstPause, longestPause = Pause(time.Millisecond), Pause(32 * time.Millisecond)

// Wait waits twice as long as the time before, at most 32 ms, or until ctx ends: then it
// returns the cause.
func (p *Pause) Wait(ctx context.Context) error {
	*p = min(max(2**p, firstPause), longestPause)
	timer := time.NewTimer(time.Duration(*p))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
