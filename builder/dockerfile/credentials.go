package dockerfile

import "strings"

// HideCredentials returns text with the password of every URL in it replaced, and with what stands alone before the host
// of a web server: that is a token.
func HideCredentials(text string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		authority := rest
		if end := strings.IndexAny(rest, "/?# \t\n\"'\\"); end >= 0 {
			authority = rest[:end]
		}
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			b.WriteString(hiddenUser(before, authority[:at]))
			rest = rest[at:]
		}
		text = rest
	}
}

// hiddenUser is what may be shown of the user and password of a URL, given what stands before its "://".
func hiddenUser(before, userinfo string) string {
	user, _, password := strings.Cut(userinfo, ":")
	switch {
	case password:
		return user + ":xxxxx"
	case strings.HasSuffix(before, "http"), strings.HasSuffix(before, "https"):
		return "xxxxx"
	}
	return userinfo
}
