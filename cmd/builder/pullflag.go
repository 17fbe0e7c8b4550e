package main

import (
	"builder/builder"

	"github.com/spf13/cobra"
)

// pullFlag is --pull: when the registry is asked for an image.
type pullFlag struct{ policy builder.PullPolicy }

// register adds the flag. alone is what --pull without a value means; "" demands a value.
func (p *pullFlag) register(c *cobra.Command, alone builder.PullPolicy, usage string) {
	p.policy = builder.PullMissing
	f := c.Flags().VarPF(p, "pull", "", usage)
	f.NoOptDefVal = string(alone)
}

// check refuses to ask when nobody may be asked.
func (p *pullFlag) check(net *netFlags) error {
	if net.offline && p.policy == builder.PullAlways {
		return usagef("--pull=always asks the registry, --offline asks nobody; use one of them")
	}
	return nil
}

func (p *pullFlag) String() string { return string(p.policy) }
func (p *pullFlag) Type() string   { return "when" }

// Set implements pflag.Value.
func (p *pullFlag) Set(value string) (err error) {
	p.policy, err = builder.ParsePullPolicy(value)
	return err
}
