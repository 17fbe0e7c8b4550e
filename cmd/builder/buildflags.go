package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"builder/builder"
	"builder/builder/plan"
	"builder/builder/secret"
	"builder/builder/sshagent"
	"builder/oci/name"

	"golang.org/x/term"
)

func (f *buildFlags) parseOutputs(stdout io.Writer) ([]builder.Output, error) {
	var outputs []builder.Output
	for _, v := range f.outputs {
		o, err := builder.ParseOutput(v)
		if err != nil {
			return nil, err
		}
		if out, ok := stdout.(*os.File); ok && o.Dest == "-" && term.IsTerminal(int(out.Fd())) {
			return nil, fmt.Errorf("-o %s: standard output is a terminal; say where to: dest=PATH", v)
		}
		outputs = append(outputs, o)
	}
	if f.load {
		outputs = append(outputs, builder.Output{Type: "docker", Load: true, ManifestOptions: builder.ManifestOptions{Encoding: builder.DefaultEncoding}})
	}
	return outputs, nil
}

func (f *buildFlags) parseAnnotations() (all builder.Annotations, err error) {
	for _, v := range f.annotations {
		a, err := builder.ParseAnnotation(v)
		if err != nil {
			return nil, usagef("--annotation %s: %w", v, err)
		}
		all = append(all, a...)
	}
	return all, nil
}

// options turns flags into build options.
func (f *buildFlags) options(g *global, dir string) (builder.BuildOptions, error) {
	o := builder.BuildOptions{
		Context: dir, Dockerfile: f.file, Stdin: g.in, Names: f.tags, NoCache: f.noCache, NoCacheFilter: f.noCacheFilter,
		KeepFailed: f.keepFailed, Pull: f.pull.policy, Lock: f.lock, Explain: f.explain, Jobs: f.jobs, DeviceDirs: f.deviceDirs,
	}
	if f.push && f.net.offline {
		return o, usagef("--push sends the image, --offline sends nothing; use one of them")
	}
	if err := f.pull.check(&f.net); err != nil {
		return o, err
	}
	if dir == "-" && f.file == "-" {
		return o, usagef("the context and the Dockerfile cannot both be standard input")
	}
	for _, t := range f.tags {
		if _, err := name.Parse(t); err != nil {
			return o, usageError{fmt.Errorf("-t: %w", err)}
		}
	}
	if _, err := name.Parse(f.keepFailed); f.keepFailed != "" && err != nil {
		return o, usageError{fmt.Errorf("--keep-failed: %w", err)}
	}
	p, err := f.planOptions()
	if err != nil {
		return o, err
	}
	o.Plan = p
	for _, v := range f.platforms {
		platform, err := parsePlatform(v)
		if err != nil {
			return o, err
		}
		o.Platforms = append(o.Platforms, platform)
	}
	if o.Annotations, err = f.parseAnnotations(); err != nil {
		return o, err
	}
	if o.CacheMounts, err = cacheMounts(f.cacheMounts); err != nil {
		return o, err
	}
	if o.Secrets, err = readSecrets(f.secrets); err != nil {
		return o, err
	}
	if o.SSH, err = openAgents(f.ssh); err != nil {
		return o, err
	}
	said, err := f.attest.options()
	if err != nil {
		return o, err
	}
	o.Provenance, o.SBOM = said.provenance, said.sbom
	if o.StoreLimit, err = storeLimit(f.storeLimit); err != nil {
		return o, err
	}
	if o.Policy, err = f.policy.load(); err != nil {
		return o, err
	}
	o.Sandbox, err = f.sandbox.options(f.net.ca)
	return o, err
}

// openAgents finds the agents and keys of --ssh.
func openAgents(flags []string) (sshagent.Agents, error) {
	var sources []sshagent.Source
	for _, v := range flags {
		s, err := sshagent.Parse(v)
		if err != nil {
			return sshagent.Agents{}, usageError{fmt.Errorf("--ssh: %w", err)}
		}
		sources = append(sources, s)
	}
	return sshagent.Open(sources)
}

// readSecrets reads the values of --secret before anything is built.
func readSecrets(flags []string) (secret.Secrets, error) {
	var sources []secret.Source
	for _, v := range flags {
		s, err := secret.Parse(v)
		if err != nil {
			return secret.Secrets{}, usageError{fmt.Errorf("--secret: %w", err)}
		}
		sources = append(sources, s)
	}
	return secret.Read(sources)
}

func (f *buildFlags) planOptions() (plan.Options, error) {
	o := plan.Options{
		Target: f.target, Network: f.network, Allow: f.allow, BuildPlatform: hostPlatform(),
		BuildArgs: buildArgs(f.buildArgs, os.LookupEnv),
	}
	err := checkAllow(f.allow)
	if err != nil {
		return o, err
	}
	for _, v := range f.buildArgs {
		k, value, _ := strings.Cut(v, "=")
		if k == "" {
			return o, usagef("--build-arg %s: it must be NAME=VALUE or NAME", v)
		}
		if on, _ := strconv.ParseBool(value); on && k == "BUILDKIT_MULTI_PLATFORM" && len(f.platforms) < 2 {
			return o, usagef("--build-arg %s: an index is made for several platforms: --platform A,B", v)
		}
	}
	if o.Labels, err = pairs("--label", f.labels, true); err != nil {
		return o, err
	}
	if o.Contexts, err = pairs("--build-context", f.contexts, false); err != nil {
		return o, err
	}
	switch f.network {
	case "", "default", "none", "host":
		return o, nil
	}
	return o, usagef("--network %s: it must be default, none or host", f.network)
}

// checkAllow refuses words of --allow that grant nothing.
func checkAllow(words []string) error {
	for _, w := range words {
		kind, name, named := strings.Cut(w, "=")
		whole := []string{"network.host", "security.insecure", "device", "secret.in-image"}
		if !slices.Contains(whole, kind) || named && (name == "" || !slices.Contains(whole[2:], kind)) {
			return usagef("--allow %s: it must be network.host, security.insecure, device[=NAME] or secret.in-image[=ID]", w)
		}
	}
	return nil
}

// buildArgs reads --build-arg values. A name alone takes its value from the
// environment; if that has none, it stays nil. SOURCE_DATE_EPOCH is taken from the
// environment without being named, as buildx does it.
func buildArgs(values []string, lookup func(string) (string, bool)) map[string]*string {
	out := map[string]*string{}
	if epoch, ok := lookup("SOURCE_DATE_EPOCH"); ok {
		out["SOURCE_DATE_EPOCH"] = &epoch
	}
	for _, v := range values {
		k, val, ok := strings.Cut(v, "=")
		if !ok {
			val, ok = lookup(k)
		}
		out[k] = nil
		if ok {
			out[k] = &val
		}
	}
	return out
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, values []string, emptyOK bool) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		k, val, ok := strings.Cut(v, "=")
		if !ok && !emptyOK || k == "" {
			return nil, usageError{fmt.Errorf("%s %s: %w", flag, v, errors.New("it must be NAME=VALUE"))}
		}
		out[k] = val
	}
	return out, nil
}
