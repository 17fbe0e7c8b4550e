package dockerfile

import "strings"

// HideCredentials returns text with the password of every URL in it replaced.
func HideCredentials(text string) string {
	var b strings.Builder
	for {
		scheme := strings.Index(text, "://")
		if scheme < 0 {
			b.WriteString(text)
			return b.String()
		}
		authority := text[scheme+len("://"):]
		if end := strings.IndexAny(authority, "/?# \t\n\"'\\"); end >= 0 {
			authority = authority[:end]
		}
		b.WriteString(text[:scheme+len("://")])
		rest := text[scheme+len("://"):]
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			if user, _, ok := strings.Cut(authority[:at], ":"); ok {
				b.WriteString(user + ":xxxxx")
				rest = rest[at:]
			}
		}
		text = rest
	}
}
