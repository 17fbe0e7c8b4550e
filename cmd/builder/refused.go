package main

import "github.com/spf13/cobra"

// refusedFlags are flags that users of other builders know and that are not supported
// yet: to use one is an error that says so.
type refusedFlags struct{ used []string }

func (r *refusedFlags) register(c *cobra.Command, names ...string) {
	for _, n := range names {
		fl := c.Flags().VarPF(&refusedValue{r, n}, n, "", "")
		fl.Hidden, fl.NoOptDefVal = true, "true"
	}
}

// check fails when one of the flags was used.
func (r *refusedFlags) check() error {
	if len(r.used) > 0 {
		return usagef("--%s is not supported yet", r.used[0])
	}
	return nil
}

// refusedValue notes the use of one flag.
type refusedValue struct {
	all  *refusedFlags
	name string
}

func (v *refusedValue) String() string { return "" }
func (v *refusedValue) Type() string   { return "string" }

func (v *refusedValue) Set(string) error {
	v.all.used = append(v.all.used, v.name)
	return nil
}
