package registry_test

import (
	"io"
	"log"
)

// quiet swallows what test servers say about connections broken on purpose.
var quiet = log.New(io.Discard, "", 0)
