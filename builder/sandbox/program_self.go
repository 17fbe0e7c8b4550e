//go:build !pid1

package sandbox

var pid1 []byte // none: sandboxes start with this program itself
