package etcd_test

import (
	"testing"
	"time"

	"weft/store"
	"weft/store/etcd"
	"weft/store/storetest"
	"weft/store/storetest/server"
)

func TestFaults(t *testing.T) {
	storetest.RunFaults(t, storetest.FaultWorld{
		Kind:  server.Etcd,
		Floor: 2 * time.Second,
		Open: func(t *testing.T, endpoints []string, dial storetest.Dial, prefix string) store.Store {
			s, err := etcd.New(etcd.Config{Endpoints: endpoints, Prefix: prefix, Dial: dial})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Compact: func(t *testing.T, c *server.Cluster, _ store.Store) {
			if err := c.CompactEtcd(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		Attempts:    6,
		Frames:      1,
		DiskRestart: true,
	})
}
