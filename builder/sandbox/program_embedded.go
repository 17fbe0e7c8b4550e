//go:build pid1

package sandbox

import _ "embed"

// pid1 is the program of that name, built for the same machine and compressed by gzip: it is two megabytes long, and
// there are builds without a RUN.
//
//go:embed pid1/pid1.gz
var pid1 []byte
