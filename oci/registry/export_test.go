package registry

import "context"

// Ping asks a registry, with the credentials there are, whether it lets us in.
func Ping(ctx context.Context, host string, o Options) error {
	r, err := registryOnly(host, o)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.ping(ctx); err != nil {
		return r.explain("reach", "", err)
	}
	return nil
}
