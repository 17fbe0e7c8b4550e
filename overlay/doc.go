// Package overlay speaks overlayfs. It mounts a stack of directories, reads the same stack without mounting it, writes
// the marks by which overlayfs records deletions, and tells what an upper directory changed. Where the kernel mounts no
// overlay it copies a stack and makes of the changed copy the same upper directory (Plain); what the kernel does not let
// an ordinary user make of a file it notes, and reads again (Place, Chown).
//
// It does not know what the directories mean, who made them, how long they live or how they are named, and it knows
// neither layers nor tar.
//
// Every host path below a directory of a stack is opened with openat2 and RESOLVE_NO_SYMLINKS, so a link inside a tree
// is never followed on the host; links are resolved inside the tree by this package. Linux 5.6 or newer is required.
package overlay
