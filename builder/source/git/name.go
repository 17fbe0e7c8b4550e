package git

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// IsHash tells whether s is a full object name: sha1 or sha256, lower-case.
func IsHash(s string) bool {
	return (len(s) == 40 || len(s) == 64) && isHex(s) && strings.ToLower(s) == s
}

// isHex tells whether s is hexadecimal.
func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// checkRef refuses what cannot be the name of a ref, or part of one (git-check-ref-format), whoever gave it. What is
// left is neither an option nor a pattern, a range or a refspec.
func checkRef(ref string) error {
	bad := strings.HasPrefix(ref, "-") || strings.Contains(ref, "..") || strings.Contains(ref, "@{") ||
		strings.ContainsAny(ref, " ~^:?*[\\") || strings.ContainsFunc(ref, unicode.IsControl)
	if ref != "" && !bad {
		for part := range strings.SplitSeq(ref, "/") {
			bad = bad || part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".") || strings.HasSuffix(part, ".lock")
		}
	}
	if bad {
		return fmt.Errorf("invalid git ref %q", ref)
	}
	return nil
}

// checkSubdir refuses a directory that is none of the tree's by its name.
func checkSubdir(dir string) error {
	if strings.ContainsFunc(dir, unicode.IsControl) {
		return fmt.Errorf("subdir %q has a control character", dir)
	}
	for part := range strings.SplitSeq(dir, "/") {
		if part == ".." {
			return fmt.Errorf("subdir %q leads out of the repository", dir)
		}
		if strings.EqualFold(part, ".git") {
			return fmt.Errorf("subdir %q is not part of the tree", dir)
		}
	}
	return nil
}

// matches compares a checksum with the hashes that it may be the beginning of.
func matches(checksum string, hashes ...string) error {
	var got []string
	for _, h := range hashes {
		if strings.HasPrefix(h, checksum) {
			return nil
		}
		if len(got) == 0 || got[0] != h {
			got = append(got, h)
		}
	}
	return fmt.Errorf("expected checksum to match %s, got %s", checksum, strings.Join(got, " or "))
}

// errPath is for what a path may not hold where git's own tools have been misled by it.
var errPath = errors.New("the path has a control character")
