package consul

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"weft/store"
)

func anyOps(t *rapid.T) []store.Op {
	text := func(name string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, name)) }
	var ops []store.Op
	for range rapid.IntRange(0, 5).Draw(t, "n") {
		o := store.Op{Key: store.Key{Partition: text("partition"), Name: text("name")}, Delete: rapid.Bool().Draw(t, "delete")}
		if !o.Delete {
			o.Value = []byte(text("value"))
		}
		ops = append(ops, o)
	}
	return ops
}

// Entries, and segments of them, come back as they were; what is cut short is an error and nothing worse.
func TestJournalEntriesAndSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := anyOps(t)
		raw := encode(ops)
		at, got, err := decode(raw)
		if err != nil || !cmp.Equal(got, ops, cmpopts.EquateEmpty()) || time.Since(at) > time.Minute || time.Since(at) < -time.Second {
			t.Fatalf("%+v came back as %+v, %v, %v", ops, got, at, err)
		}
		for n := range raw {
			_, _, _ = decode(raw[:n])
			_, _ = unpack(raw[:n])
		}
		var es []entry
		for i := range rapid.IntRange(0, 4).Draw(t, "entries") {
			es = append(es, entry{position: position{store.Rev(1000 + i), rapid.Uint64().Draw(t, "nonce")}, value: encode(anyOps(t))})
		}
		back, err := unpack(pack(es))
		if err != nil || !cmp.Equal(back, es, cmp.AllowUnexported(entry{}, position{}), cmpopts.EquateEmpty()) {
			t.Fatalf("%v came back as %v, %v", es, back, err)
		}
	})
	if _, _, err := decode([]byte("scribble")); err == nil {
		t.Error("a scribble passes for an entry")
	}
}

// requestLimit is Consul's for a transaction (limits.txn_max_req_len).
const requestLimit = 512 << 10

func requestSize(t *testing.T, p *plan) int {
	t.Helper()
	raw, err := json.Marshal(p.ops)
	if err != nil {
		t.Fatal(err)
	}
	return len(raw)
}

// The largest transaction that package store allows fits one of Consul's, with its journal entries, and so does what trims a journal of such.
func TestTheLargestTransactionFits(t *testing.T) {
	s := &Store{slots: newSlots(), prefix: strings.Repeat("p", 200) + "/"}
	for name, partitions := range map[string][]string{"one partition": {store.Meta}, "several": {store.Meta, "net/a", "net/b", "net/c"}} {
		var txn store.Txn
		for i := range store.MaxOps {
			k := store.Key{Partition: partitions[i%len(partitions)], Name: strings.Repeat("\xff", store.MaxName-2) + fmt.Sprintf("%02d", i)}
			txn.Then = append(txn.Then, store.Put(k, make([]byte, store.MaxTxn/store.MaxOps)))
		}
		if err := txn.Check(); err != nil {
			t.Fatal(err)
		}
		p := s.plan(txn)
		if n := requestSize(t, p); n > requestLimit || len(p.ops) > 128 {
			t.Errorf("%s: %d operations of %d bytes", name, len(p.ops), n)
		}
	}
	big := entry{position{1, 1 << 63}, "0123456789-ffff", encode([]store.Op{store.Put(store.Key{Partition: store.Meta, Name: "a"}, make([]byte, store.MaxTxn))})}
	small := entry{position{1, 1 << 63}, "0123456789-ffff", make([]byte, 900)}
	for name, all := range map[string][]entry{"big": {big, big, big}, "small": slices.Repeat([]entry{small}, 300), "mixed": {small, big, small, big, small}} {
		moved := 0
		for rest := all; len(rest) > 0; moved++ {
			n := portion(rest)
			if n == 0 {
				t.Fatalf("%s: nothing moves", name)
			}
			p := s.moving(store.Meta, rest[:n], slices.Repeat([]segment{{name: strings.Repeat("k", 300)}}, dropMost))
			if n := requestSize(t, p); n > requestLimit || len(p.ops) > 128 {
				t.Errorf("%s: %d operations of %d bytes", name, len(p.ops), n)
			}
			rest = rest[n:]
		}
	}
}

// Conditions are tested before anything is written, and those of a key that is put are one operation with the put.
func TestPlan(t *testing.T) {
	s := &Store{slots: newSlots()}
	k := func(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }
	p := s.plan(store.Txn{
		If:   []store.Cond{{Key: k("new"), Rev: store.Absent}, {Key: k("fence"), Rev: 7}, {Key: k("old"), Rev: 8}, {Key: k("there"), Rev: store.Exists}, {Key: k("not"), Rev: store.Absent}},
		Then: []store.Op{store.Put(k("new"), nil), store.Del(k("old")), store.Put(k("there"), nil), store.Put(store.Key{Partition: "net/x", Name: "n"}, nil)},
	})
	var got []string
	for _, o := range p.ops {
		got = append(got, fmt.Sprintf("%s %s %d", o.KV.Verb, o.KV.Key, o.KV.Index))
	}
	slot := func(i int) string { return fmt.Sprintf("%s-%x", s.slots.client, i) }
	shard := shardOf("net/x")
	want := []string{
		"check-index meta/k/meta/fence 7", "check-index meta/k/meta/old 8", "get meta/k/meta/there 0", "check-not-exists meta/k/meta/not 0",
		"cas meta/k/meta/new 0", "delete meta/k/meta/old 0", "set meta/k/meta/there 0", "set " + shard + "/k/net%2Fx/n 0",
		"cas meta/j/" + slot(1) + " 0", "cas " + shard + "/j/" + slot(2) + " 0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if d := cmp.Diff(map[int]int{0: 1, 1: 2, 2: 3, 3: 4, 4: 0}, p.conds); d != "" {
		t.Errorf("conditions: -want +got\n%s", d)
	}
}
