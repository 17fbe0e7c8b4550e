package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

const maxPorts = 3 * (1 << 16) // tcp, udp and sctp

func (p *planner) expose(s *stage, c *command, i *instructions.ExposeCommand) error {
	var ports []string
	for _, word := range i.Ports {
		if _, err := expand(p.lex, word, s.env); err != nil {
			return err
		}
		specs, err := p.lex.ProcessWords(word, s.env)
		if err != nil {
			return err
		}
		for _, spec := range specs {
			more, err := p.ports(c, spec)
			if err != nil {
				return err
			}
			if ports = append(ports, more...); len(ports) > maxPorts {
				return errors.New("more ports than there are")
			}
		}
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, port := range ports {
		s.image.Config.ExposedPorts[port] = struct{}{}
	}
	return s.record(fmt.Sprintf("EXPOSE %v", ports), false)
}

// ports reads "[[IP:]HOST:]PORT[-PORT][/PROTO]" into "PORT/PROTO" for each port. What is said of the host
// has no meaning here; it must still be well formed.
func (p *planner) ports(c *command, spec string) ([]string, error) {
	ip, host, container := splitPort(spec)
	container, proto, _ := strings.Cut(container, "/")
	if container == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if proto != strings.ToLower(proto) {
		p.warn(&linter.RuleExposeProtoCasing, c.where, linter.RuleExposeProtoCasing.Format(spec))
	}
	if ip != "" || host != "" {
		p.warn(&linter.RuleExposeInvalidFormat, c.where, linter.RuleExposeInvalidFormat.Format(spec))
	}
	if err := checkIP(ip); err != nil {
		return nil, err
	}
	first, last, err := portRange(container)
	if err != nil {
		return nil, errors.New("invalid containerPort: " + container)
	}
	if err := checkHostPort(host, container, last-first); err != nil {
		return nil, err
	}
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+strings.ToLower(proto))
	}
	return out, nil
}

func splitPort(spec string) (ip, host, container string) {
	rest, container, ok := cutLast(spec)
	if !ok {
		return "", "", spec
	}
	ip, host, ok = cutLast(rest)
	if !ok {
		return "", rest, container
	}
	return ip, host, container
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndex(s, ":")
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func checkIP(ip string) error {
	if ip == "" {
		return nil
	}
	bare := ip
	if strings.HasPrefix(ip, "[") {
		bare = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
	}
	if _, err := netip.ParseAddr(bare); err != nil {
		return errors.New("invalid IP address: " + ip)
	}
	return nil
}

// checkHostPort checks the host's ports: as many as the container's, or any number for one.
func checkHostPort(host, container string, span int) error {
	if host == "" {
		return nil
	}
	first, last, err := portRange(host)
	if err != nil {
		return errors.New("invalid hostPort: " + host)
	}
	if span != 0 && last-first != span {
		return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", container, host)
	}
	return nil
}

func portRange(text string) (first, last int, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	if first, err = portNumber(low); err != nil {
		return 0, 0, err
	}
	if last, err = portNumber(high); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, errors.New("invalid port range: " + text)
	}
	return first, last, nil
}

func portNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > 65535 {
		return 0, errors.New("value out of range (0–65535)")
	}
	return n, nil
}
