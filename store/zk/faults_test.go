package zk_test

import (
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest"
	"weft/store/storetest/server"
	"weft/store/zk"
)

func TestFaults(t *testing.T) {
	storetest.RunFaults(t, storetest.FaultWorld{
		Kind:  server.ZooKeeper,
		Floor: 2 * time.Second,
		Open: func(t *testing.T, endpoints []string, dial storetest.Dial, prefix string) store.Store {
			s, err := zk.New(zk.Config{Endpoints: endpoints, Prefix: prefix, Dial: dial})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Compact: func(t *testing.T, _ *server.Cluster, s store.Store) {
			if err := s.(*zk.Store).Forget(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		Attempts:    6,
		Frames:      1,
		DiskRestart: true,
	})
}
