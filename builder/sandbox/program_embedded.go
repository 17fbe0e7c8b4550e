//go:build pid1

package sandbox

import _ "embed"

// pid1 is the program of that name, built for the same machine and compressed by zstd: it is two megabytes long, and
// there are builds without a RUN.
//
//go:embed pid1/pid1.zst
var pid1 []byte
