package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"builder/oci"
	"builder/oci/name"
)

// A body that yields nothing for too long is asked for again.
func TestStall(t *testing.T) {
	defer func(d time.Duration) { stallTime = d }(stallTime)
	stallTime = 200 * time.Millisecond
	data := bytes.Repeat([]byte("x"), 1000)
	gets := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		from := 0
		if fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		if gets++; gets == 1 {
			w.Write(data[:500])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		w.Write(data[from:])
	}))
	defer s.Close()
	r := Repository(name.Ref{Domain: s.Listener.Addr().String(), Path: "app"}, Options{ConfigDir: t.TempDir()})
	defer r.Close()
	got, err := oci.ReadAll(t.Context(), r, oci.NewDescriptor("", data), 1<<20)
	if err != nil || !bytes.Equal(got, data) || gets != 2 {
		t.Errorf("%d bytes after %d requests: %v", len(got), gets, err)
	}
}
