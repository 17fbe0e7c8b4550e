package main

import (
	"os"

	"builder/builder/policy"

	"github.com/spf13/cobra"
)

// policyFlag is --policy: which images may be used.
type policyFlag struct{ path string }

// register adds the flag; what says which images need the signatures.
func (f *policyFlag) register(c *cobra.Command, what string) {
	c.Flags().StringVar(&f.path, "policy", "", "policy.json `file` that says whose signatures "+what+" (default $BUILDER_POLICY, else none)")
}

// load reads the policy of the flag, else of the environment; nil for none.
func (f *policyFlag) load() (*policy.Policy, error) {
	path := f.path
	if path == "" {
		path = os.Getenv("BUILDER_POLICY")
	}
	if path == "" {
		return nil, nil
	}
	return policy.Load(path)
}
