package dockerfile

import "testing"

func TestHideCredentials(t *testing.T) {
	for text, want := range map[string]string{
		"ADD https://u:p@host/f /":             "ADD https://u:xxxxx@host/f /",
		"ADD https://u:p@ss@host /":            "ADD https://u:xxxxx@host /",
		"ADD https://host/a@b:c /":             "ADD https://host/a@b:c /",
		"ADD ssh://git@host/x /":               "ADD ssh://git@host/x /",
		"git clone https://token@host/x":       "git clone https://xxxxx@host/x",
		`["http://:t@a/b", "https://x:@c"]`:    `["http://:xxxxx@a/b", "https://x:xxxxx@c"]`,
		"http://u:p@a http://b http://c:d@e:1": "http://u:xxxxx@a http://b http://c:xxxxx@e:1",
		"://":                                  "://", "": "",
	} {
		if got := HideCredentials(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
