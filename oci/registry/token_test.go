package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/oci"
	"builder/oci/ocitest"
	"builder/oci/registry"
)

// An identity token, as docker login keeps one, is exchanged by POST and never shown
// to the registry. A mount asks for both repositories.
func TestIdentityToken(t *testing.T) {
	var scopes []string
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "identity" || r.FormValue("service") != "s" {
			t.Errorf("%s with %v", r.Method, r.Form)
		}
		scopes = append(scopes, strings.Fields(r.FormValue("scope"))...)
		fmt.Fprint(w, `{"access_token":"t0ken"}`)
	}))
	defer tokens.Close()
	p := ocitest.NewProxy(t, "127.0.0.1:1", func(w http.ResponseWriter, r *http.Request) bool {
		switch got := r.Header.Get("Authorization"); {
		case got != "" && got != "Bearer t0ken":
			t.Errorf("the registry was shown %q", got)
		case got == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusCreated)
		}
		return true
	})
	dir := t.TempDir()
	config, _ := json.Marshal(map[string]any{"auths": map[string]any{p.Host: map[string]string{"identitytoken": "identity"}}})
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	r := at(t, p.Host, "to/app", registry.Options{ConfigDir: dir})
	if done, err := r.Mount(t.Context(), oci.NewDescriptor("", []byte("x")), "from/base"); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	slices.Sort(scopes)
	if fmt.Sprint(scopes) != "[repository:from/base:pull repository:to/app:pull,push]" {
		t.Errorf("a token for %q", scopes)
	}
	if has, err := r.Has(t.Context(), oci.NewDescriptor("", []byte("x"))); !has || err != nil || p.Seen("HEAD") > 0 {
		t.Errorf("what was mounted is asked for again: %v, %v", has, err)
	}
}
