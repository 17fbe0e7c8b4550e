package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// environ is a set of variables in the order in which each was last assigned, which is the order in which
// BuildKit hands them to a command. It implements BuildKit's shell.EnvGetter.
type environ struct {
	keys   []string
	values map[string]string
}

func newEnviron() *environ { return &environ{values: map[string]string{}} }

func (e *environ) clone() *environ {
	return &environ{keys: slices.Clone(e.keys), values: maps.Clone(e.values)}
}

func (e *environ) set(key, value string) {
	e.unset(key)
	e.keys = append(e.keys, key)
	e.values[key] = value
}

func (e *environ) unset(key string) {
	if _, ok := e.values[key]; !ok {
		return
	}
	delete(e.values, key)
	e.keys = slices.DeleteFunc(e.keys, func(k string) bool { return k == key })
}

// Get returns the value of key and whether it is set.
func (e *environ) Get(key string) (string, bool) {
	v, ok := e.values[key]
	return v, ok
}

// Keys returns the names that are set, in order.
func (e *environ) Keys() []string { return e.keys }

// pairs returns "K=V" for each variable, in order.
func (e *environ) pairs() []string {
	out := make([]string, 0, len(e.keys))
	for _, k := range e.keys {
		out = append(out, k+"="+e.values[k])
	}
	return out
}

// setConfigEnv sets key in the Env of an image config: in place when it is there, else at the end.
func setConfigEnv(env []string, key, value string) []string {
	for i, pair := range env {
		if k, _, _ := strings.Cut(pair, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// A Linux command cannot be given a variable of more than 128 KiB; what lines that double a variable could
// grow to has no bound, so there is one here.
const (
	maxWord  = 1 << 20  // of one word after expansion
	maxGuess = 64 << 20 // of what a word may grow to, looked at before
)

// expand replaces the variables in word.
func expand(lex *shell.Lex, word string, env *environ) (shell.ProcessWordResult, error) {
	longest := 0
	for _, v := range env.values {
		longest = max(longest, len(v))
	}
	if strings.Count(word, "$")*longest > maxGuess {
		return shell.ProcessWordResult{}, errTooLong
	}
	out, err := lex.ProcessWordWithMatches(word, env)
	if err != nil && strings.ContainsRune(err.Error(), utf8.RuneError) { // the end of the word, taken for a modifier
		err = errors.New("syntax error: missing '}'")
	}
	if err == nil && len(out.Result) > len(word)+maxWord {
		return out, errTooLong
	}
	return out, err
}

var errTooLong = fmt.Errorf("variables expand to more than %d bytes", maxWord)
