package consul_test

import (
	"testing"
	"time"

	"weft/store"
	"weft/store/consul"
	"weft/store/storetest"
	"weft/store/storetest/server"
)

func TestFaults(t *testing.T) {
	storetest.RunFaults(t, storetest.FaultWorld{
		Kind:  server.Consul,
		Floor: 10 * time.Second,
		Open: func(t *testing.T, endpoints []string, dial storetest.Dial, prefix string) store.Store {
			s, err := consul.New(consul.Config{Endpoints: endpoints, Prefix: prefix, Dial: dial})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Compact: func(t *testing.T, _ *server.Cluster, s store.Store) {
			if err := consul.Forget(t.Context(), s, store.Meta); err != nil {
				t.Fatal(err)
			}
		},
		Attempts: 6,
		Frames:   1,
	})
}
