package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/oci/registry"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type loginFlags struct {
	net            netFlags
	user, password string
	stdin          bool
}

func newLogin(g *global) *cobra.Command {
	f := &loginFlags{}
	c := &cobra.Command{
		Use: "login [HOST]", Short: "Check and keep a registry's credential, where docker keeps them",
		Args: args(0, 1, "at most one registry (default docker.io)"),
		RunE: func(c *cobra.Command, args []string) error { return runLogin(c.Context(), g, f, hostArg(args)) },
	}
	f.net.register(c)
	c.Flags().StringVarP(&f.user, "username", "u", "", "`name` of the user")
	c.Flags().StringVarP(&f.password, "password", "p", "", "`password`; --password-stdin keeps it out of the process list")
	c.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from standard input")
	return c
}

func hostArg(args []string) string {
	if len(args) == 0 {
		return "docker.io"
	}
	return args[0]
}

func runLogin(ctx context.Context, g *global, f *loginFlags, host string) error {
	if f.stdin && f.password != "" {
		return usagef("--password and --password-stdin exclude each other")
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	cred, err := f.credential(g)
	if err != nil {
		return err
	}
	stored, err := registry.Login(ctx, host, cred, net)
	if err != nil {
		return err
	}
	if stored.Plain {
		fmt.Fprintf(g.err, "warning: the password is kept unencrypted in %s; configure a credential helper there to avoid that\n", stored.Path)
	}
	fmt.Fprintln(g.err, "login succeeded:", host)
	return nil
}

// credential is what the flags give, and the rest asked for.
func (f *loginFlags) credential(g *global) (registry.Credential, error) {
	cred := registry.Credential{Username: f.user, Password: f.password}
	in := bufio.NewReader(g.in)
	if cred.Username == "" {
		if f.stdin {
			return cred, usagef("--password-stdin needs --username")
		}
		fmt.Fprint(g.err, "Username: ")
		line, err := in.ReadString('\n')
		if err != nil {
			return cred, errors.New("login: no user name given")
		}
		cred.Username = strings.TrimSpace(line)
	}
	if cred.Password != "" {
		return cred, nil
	}
	var err error
	cred.Password, err = readPassword(g, in, f.stdin)
	return cred, err
}

func readPassword(g *global, in *bufio.Reader, piped bool) (string, error) {
	if file, ok := g.in.(*os.File); ok && !piped && term.IsTerminal(int(file.Fd())) {
		fmt.Fprint(g.err, "Password: ")
		b, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(g.err)
		return string(b), err
	}
	b, err := io.ReadAll(io.LimitReader(in, 1<<16))
	if err == nil && len(b) == 0 {
		err = errors.New("login: no password given; use --password-stdin")
	}
	return strings.TrimRight(string(b), "\r\n"), err
}

func newLogout(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "logout [HOST]", Short: "Forget a registry's credential",
		Args: args(0, 1, "at most one registry (default docker.io)"),
		RunE: func(c *cobra.Command, args []string) error {
			return registry.Logout(c.Context(), hostArg(args), registry.Options{})
		},
	}
}
