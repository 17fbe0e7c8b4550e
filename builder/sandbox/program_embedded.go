//go:build pid1

package sandbox

import _ "embed"

// pid1 is the program of that name, built for the same machine.
//
//go:embed pid1/pid1
var pid1 []byte
