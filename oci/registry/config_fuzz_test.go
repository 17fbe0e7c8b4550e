package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzConfig reads a config.json that says anything, and asks the one helper that there is, whose answer is anything: a
// host gets its own credential or none, and what a file says can never be run.
func FuzzConfig(f *testing.F) {
	f.Add(`{"auths":{"r.example":{"auth":"YWxpY2U6c2VjcmV0"}}}`, "")
	f.Add(`{"auths":{"r.example":{"identitytoken":"t"},"https://r.example/v1/":{"auth":"!"}}}`, "")
	f.Add(`{"credsStore":"fuzz"}`, `{"ServerURL":"r.example","Username":"<token>","Secret":"s"}`)
	f.Add(`{"credHelpers":{"r.example":"../fuzz"},"auths":null}`, "credentials not found in native keychain")
	f.Add(`{"credHelpers":{"r.example":"fuzz"},"auths":[]}`, "null")
	dir := f.TempDir()
	answer := filepath.Join(dir, "answer")
	helper := "#!/bin/sh\n/bin/cat >/dev/null\nexec /bin/cat " + answer + "\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-fuzz"), []byte(helper), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Setenv("PATH", dir)
	f.Fuzz(func(t *testing.T, text, said string) {
		for path, data := range map[string]string{filepath.Join(dir, "config.json"): text, answer: said} {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := openConfig(dir)
		if err != nil {
			return
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("%q was read", text)
		}
		ask := (&Repo{host: "r.example"}).credentials(c, "r.example")
		if other, err := ask(t.Context(), "other.example"); err != nil || other.Username+other.Password+other.RefreshToken+other.AccessToken != "" {
			t.Errorf("another host gets %+v, %v", other, err)
		}
		ask(t.Context(), "r.example")
	})
}
