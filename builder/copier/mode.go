package copier

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mode is a parsed --chmod: nothing, an octal value, or the clauses of a symbolic one.
type mode struct {
	octal   bool
	value   uint32
	clauses []clause
}

// clause is one change of a symbolic mode, as POSIX chmod has it with a umask of 0.
type clause struct {
	who  uint32 // the permission bits of the classes meant: 0700, 0070, 0007
	op   byte   // '+', '-' or '='
	perm string // of "rwxXst", or one of "u", "g", "o": copied from that class
}

// parseMode reads the value of --chmod.
func parseMode(s string) (mode, error) {
	if s == "" {
		return mode{}, nil
	}
	if s[0] >= '0' && s[0] <= '9' {
		v, err := strconv.ParseUint(s, 8, 32)
		if err != nil || v > 0o7777 {
			return mode{}, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
		}
		return mode{octal: true, value: uint32(v)}, nil
	}
	var m mode
	for _, part := range strings.Split(s, ",") {
		clauses, ok := parseClause(part)
		if !ok {
			return mode{}, fmt.Errorf("invalid chmod parameter: '%s'. it should be an octal string or symbolic like u=rwX,go=rX", s)
		}
		m.clauses = append(m.clauses, clauses...)
	}
	return m, nil
}

// parseClause reads `[ugoa]*([-+=][rwxXst]*|[-+=][ugo])+`.
func parseClause(s string) ([]clause, bool) {
	var who uint32
	at := strings.IndexAny(s, "+-=")
	if at < 0 {
		return nil, false
	}
	for _, c := range s[:at] {
		bits, ok := map[rune]uint32{'u': 0o700, 'g': 0o070, 'o': 0o007, 'a': 0o777}[c]
		if !ok {
			return nil, false
		}
		who |= bits
	}
	if who == 0 {
		who = 0o777
	}
	var clauses []clause
	for rest := s[at:]; rest != ""; {
		end := strings.IndexAny(rest[1:], "+-=") + 1
		if end == 0 {
			end = len(rest)
		}
		perm := rest[1:end]
		if strings.Trim(perm, "rwxXst") != "" && perm != "u" && perm != "g" && perm != "o" {
			return nil, false
		}
		clauses = append(clauses, clause{who, rest[0], perm})
		rest = rest[end:]
	}
	return clauses, true
}

// apply returns the permission bits (07777) of a file whose st_mode is given.
func (m mode) apply(stMode uint32) uint32 {
	bits := stMode & 0o7777
	if m.octal {
		return m.value
	}
	isDir := stMode&unix.S_IFMT == unix.S_IFDIR
	for _, c := range m.clauses {
		bits = c.apply(bits, isDir)
	}
	return bits
}

func (c clause) apply(bits uint32, isDir bool) uint32 {
	set := c.bits(bits, isDir)
	switch c.op {
	case '+':
		return bits | set
	case '-':
		return bits &^ set
	}
	gone := c.who
	if !isDir { // a directory keeps its special bits unless they are named
		gone |= c.special("st")
	}
	return bits&^gone | set
}

// bits are the ones that the clause names, for a file that has these.
func (c clause) bits(have uint32, isDir bool) uint32 {
	switch c.perm {
	case "u":
		return have >> 6 & 7 * 0o111 & c.who
	case "g":
		return have >> 3 & 7 * 0o111 & c.who
	case "o":
		return have & 7 * 0o111 & c.who
	}
	var all uint32
	for _, p := range c.perm {
		switch p {
		case 'r':
			all |= 0o444
		case 'w':
			all |= 0o222
		case 'x':
			all |= 0o111
		case 'X':
			if isDir || have&0o111 != 0 {
				all |= 0o111
			}
		}
	}
	return all&c.who | c.special(c.perm)
}

func (c clause) special(perm string) (bits uint32) {
	if strings.Contains(perm, "s") {
		if c.who&0o700 != 0 {
			bits |= unix.S_ISUID
		}
		if c.who&0o070 != 0 {
			bits |= unix.S_ISGID
		}
	}
	if strings.Contains(perm, "t") && c.who == 0o777 {
		bits |= unix.S_ISVTX
	}
	return bits
}
