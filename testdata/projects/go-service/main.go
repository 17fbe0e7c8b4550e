// Command pastes keeps short texts and gives them back over HTTP.
//
//	pastes [--listen ADDR]   serves until it is told to stop
//	pastes --once            serves itself a few requests, prints the answers and ends
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.org/pastes/internal/store"

	"github.com/dustin/go-humanize"
	"github.com/go-chi/chi/v5"
)

func main() {
	listen := flag.String("listen", ":8080", "address to serve on")
	once := flag.Bool("once", false, "answer a few requests of our own on standard output")
	flag.Parse()
	if err := run(*listen, *once); err != nil {
		fmt.Fprintln(os.Stderr, "pastes:", err)
		os.Exit(1)
	}
}

func run(listen string, once bool) error {
	if once {
		listen = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Handler: routes(store.New()), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if once {
		err = selfTest("http://" + l.Addr().String())
	} else {
		fmt.Println("listening on", l.Addr())
		<-ctx.Done()
	}
	if e := server.Shutdown(context.Background()); err == nil {
		err = e
	}
	if e := <-served; err == nil && !errors.Is(e, http.ErrServerClosed) {
		err = e
	}
	return err
}

func routes(s *store.Store) http.Handler {
	r := chi.NewRouter()
	r.Post("/pastes", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintln(w, s.Put(text))
	})
	r.Get("/pastes/{id}", func(w http.ResponseWriter, r *http.Request) {
		text, ok := s.Get(chi.URLParam(r, "id"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(text)
	})
	r.Get("/", func(w http.ResponseWriter, r *http.Request) {
		n, size := s.Stat()
		fmt.Fprintf(w, "%d pastes, %s\n", n, humanize.Bytes(size))
	})
	return r
}

// selfTest asks the service at url what a user would, and prints the answers.
func selfTest(url string) error {
	var id string
	for _, q := range []struct {
		method, path, body string
	}{
		{"GET", "/", ""},
		{"POST", "/pastes", strings.Repeat("a layer is what one step changed\n", 100)},
		{"GET", "/pastes/ID", ""},
		{"GET", "/pastes/unknown", ""},
		{"GET", "/", ""},
	} {
		req, err := http.NewRequest(q.method, url+strings.ReplaceAll(q.path, "ID", id), strings.NewReader(q.body))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusCreated {
			id = strings.TrimSpace(string(answer))
		}
		first, _, more := bytes.Cut(answer, []byte("\n"))
		fmt.Printf("%s %s: %d %s", q.method, q.path, resp.StatusCode, first)
		if more && len(answer) > len(first)+1 {
			fmt.Printf(" ... (%d bytes)", len(answer))
		}
		fmt.Println()
	}
	return nil
}
