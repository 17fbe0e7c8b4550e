package secret

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Secrets are values by id. They are safe for concurrent use; the zero value has none.
type Secrets struct{ kept hidden[map[string][]byte] }

func (s Secrets) values() map[string][]byte {
	if s.kept == nil {
		return nil
	}
	return *s.kept()
}

// Read reads all values, once: later changes of a file or variable do not matter. It is an error when one cannot be had.
// Of several sources with one id the last one counts.
func Read(sources []Source) (Secrets, error) {
	values := map[string][]byte{}
	for _, source := range sources {
		value, err := source.read()
		if err != nil {
			return Secrets{}, fmt.Errorf("secret %q: %w", source.ID, err)
		}
		values[source.ID] = value
	}
	return Secrets{hide(&values)}, nil
}

// Get returns a copy of a value; false if there is no secret of that id.
func (s Secrets) Get(id string) ([]byte, bool) {
	value, ok := s.values()[id]
	return slices.Clone(value), ok
}

// Without returns the secrets but for those of the ids.
func (s Secrets) Without(ids ...string) Secrets {
	rest := maps.Clone(s.values())
	maps.DeleteFunc(rest, func(id string, _ []byte) bool { return slices.Contains(ids, id) })
	return Secrets{hide(&rest)}
}

// IDs returns the ids, sorted.
func (s Secrets) IDs() []string { return slices.Sorted(maps.Keys(s.values())) }

// String lists the ids.
func (s Secrets) String() string { return "secrets(" + strings.Join(s.IDs(), ", ") + ")" }

// Format prints the ids, whatever the verb.
func (s Secrets) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalJSON encodes the ids.
func (s Secrets) MarshalJSON() ([]byte, error) { return json.Marshal(s.IDs()) }
