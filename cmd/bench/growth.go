package main

import (
	"context"
	"io"
)

func measureGrowth(ctx context.Context, l *lab, o options, out io.Writer) error { return nil }
