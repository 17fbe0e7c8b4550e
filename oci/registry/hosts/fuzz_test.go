package hosts

import (
	"strings"
	"testing"
)

// FuzzLookup reads a registries.conf and a hosts.toml that say anything: they are refused or name hosts that can be asked,
// the registry or what stands for it last.
func FuzzLookup(f *testing.F) {
	f.Add("[[registry]]\nprefix='r.example'\n[[registry.mirror]]\nlocation='m.example/x'\npull-from-mirror='tag-only'\n", "")
	f.Add("[[registry]]\nprefix='*.example'\nlocation='x:1'\ninsecure=true", "server='http://o.example/v2'\n[host.'https://z']\ncapabilities=['pull','resolve']")
	f.Add("unqualified-search-registries=['a']\n[[registry]]\nlocation='r.example'\nblocked=true", "[host.'//']\noverride_path=true")
	f.Add("", "[host.'https://z.example:1/v2/']\nskip_verify=true\n[host.'https://z.example:1/v2/'.header]\nx=['a','b']\ny='c'")
	f.Fuzz(func(t *testing.T, conf, toml string) {
		if len(conf)+len(toml) > 4000 || strings.Contains(toml, "ca") || strings.Contains(toml, "client") {
			return // those name files of the machine
		}
		dir := t.TempDir()
		c := &Config{dirs: []string{dir + "/certs.d"}, files: []string{put(t, conf, dir, "registries.conf")}}
		put(t, toml, dir, "certs.d", "r.example", "hosts.toml")
		for _, pinned := range []bool{false, true} {
			found, err := c.Lookup("r.example", "a/b", pinned)
			if err != nil {
				continue
			}
			for _, h := range found {
				if h.Name == "" || strings.ContainsAny(h.Name, "/ \n@") || !strings.HasPrefix(h.Base, "/") || h.Scheme != "" && h.Scheme != "http" && h.Scheme != "https" {
					t.Errorf("host %+v", h)
				}
			}
			if len(found) == 0 {
				t.Error("no host at all")
			}
		}
	})
}
