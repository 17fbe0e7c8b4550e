// Command pid1 is the first process of a sandbox and nothing else: package child as a program of its own. `make build`
// embeds it into the builder, which starts it for each command. The builder could execute itself instead, and does where
// pid1 is not embedded; but a program this small starts in a third of the time.
package main

import (
	"os"

	"builder/builder/sandbox/child"
)

func main() {
	child.Linked() // a sandbox's process never gets here: its work happens while package child is initialised
	os.Stderr.WriteString("pid1: the builder starts this program inside its sandboxes; it does nothing by itself\n")
	os.Exit(2)
}
