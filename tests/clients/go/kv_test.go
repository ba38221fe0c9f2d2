package clients

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPutsCountRevisionsAndVersions(t *testing.T) {
	client, prefix := member(t)
	key := prefix + "key"
	first := put(t, client, key, "one")
	equal(t, "revision of the next write", put(t, client, key, "two"), first+1)
	response, err := client.Put(soon(t), key, "three", clientv3.WithPrevKV())
	succeeds(t, err)
	equal(t, "value before", string(response.PrevKv.Value), "two")
	equal(t, "revision before", response.PrevKv.ModRevision, first+1)

	answer := get(t, client, key)
	equal(t, "count", answer.Count, 1)
	equal(t, "more", answer.More, false)
	equal(t, "revision", answer.Header.Revision, first+2)
	kv := answer.Kvs[0]
	equal(t, "key", string(kv.Key), key)
	equal(t, "value", string(kv.Value), "three")
	equal(t, "create revision", kv.CreateRevision, first)
	equal(t, "mod revision", kv.ModRevision, first+2)
	equal(t, "version", kv.Version, 3)
	equal(t, "lease", kv.Lease, 0)

	for i, want := range []string{"one", "two", "three"} {
		equal(t, "value in the past", value(t, client, key, clientv3.WithRev(first+int64(i))), want)
	}
	equal(t, "value before the first write", value(t, client, key, clientv3.WithRev(first-1)), "absent")
	equal(t, "serializable value", value(t, client, key, clientv3.WithSerializable()), "three")
}

func TestAnyBytesAreKeysAndValues(t *testing.T) {
	client, prefix := member(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	key := prefix + string(all)
	put(t, client, key, string(all))
	equal(t, "value", value(t, client, key), string(all))
	put(t, client, key, "")
	equal(t, "empty value", value(t, client, key), "")
}

func TestRanges(t *testing.T) {
	client, prefix := member(t)
	for _, name := range []string{"a", "b", "ba", "bb", "c", "\xff"} {
		put(t, client, prefix+name, "value of "+name)
	}
	ranges := []struct {
		key     string
		options []clientv3.OpOption
		want    string
		count   int64
		more    bool
	}{
		{"", []clientv3.OpOption{clientv3.WithPrefix()}, "a b ba bb c \xff", 6, false},
		{"b", []clientv3.OpOption{clientv3.WithPrefix()}, "b ba bb", 3, false},
		{"\xff", []clientv3.OpOption{clientv3.WithPrefix()}, "\xff", 1, false},
		{"b", []clientv3.OpOption{clientv3.WithRange(prefix + "bb")}, "b ba", 2, false},
		{"b", nil, "b", 1, false},
		{"absent", nil, "", 0, false},
		{"c", []clientv3.OpOption{clientv3.WithRange(prefix + "b")}, "", 0, false},
		{"", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(2)}, "a b", 6, true},
		{"", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(6)}, "a b ba bb c \xff", 6, false},
		{"", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}, "", 6, false},
	}
	for _, each := range ranges {
		answer := get(t, client, prefix+each.key, each.options...)
		what := fmt.Sprintf("range from %q to %q", each.key, clientv3.OpGet("k", each.options...).RangeBytes())
		equal(t, what, keys(answer, prefix), each.want)
		equal(t, what+": count", answer.Count, each.count)
		equal(t, what+": more", answer.More, each.more)
	}
	for _, kv := range get(t, client, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()).Kvs {
		equal(t, "value of keys only", len(kv.Value), 0)
		equal(t, "version of keys only", kv.Version, 1)
	}
	// No other test's keys lie behind this prefix.
	end := clientv3.GetPrefixRangeEnd("Test")
	equal(t, "from key", keys(get(t, client, prefix+"bb", clientv3.WithFromKey(), clientv3.WithRange(end)), prefix), "bb c \xff")
	last := "\xff\xff" + prefix
	put(t, client, last, "last")
	defer client.Delete(soon(t), last)
	equal(t, "from key to the end", keys(get(t, client, "\xff\xff", clientv3.WithFromKey()), "\xff\xff"+prefix), "")
	equal(t, "count from key to the end", get(t, client, "\xff\xff", clientv3.WithFromKey()).Count, 1)
}

func TestOrderAndBoundsOfRanges(t *testing.T) {
	client, prefix := member(t)
	// Keys, versions, creations, modifications and values are each in an order of their own.
	first := put(t, client, prefix+"b", "2")
	put(t, client, prefix+"a", "9")
	put(t, client, prefix+"c", "5")
	put(t, client, prefix+"a", "3")
	put(t, client, prefix+"a", "4")
	put(t, client, prefix+"b", "6")
	orders := []struct {
		target clientv3.SortTarget
		want   string
	}{
		{clientv3.SortByKey, "a b c"},
		{clientv3.SortByVersion, "c b a"},
		{clientv3.SortByCreateRevision, "b a c"},
		{clientv3.SortByModRevision, "c a b"},
		{clientv3.SortByValue, "a c b"},
	}
	for _, order := range orders {
		answer := get(t, client, prefix, clientv3.WithPrefix(), clientv3.WithSort(order.target, clientv3.SortAscend))
		equal(t, fmt.Sprintf("ascending by %d", order.target), keys(answer, prefix), order.want)
		answer = get(t, client, prefix, clientv3.WithPrefix(), clientv3.WithSort(order.target, clientv3.SortDescend))
		names := strings.Fields(order.want)
		equal(t, fmt.Sprintf("descending by %d", order.target), keys(answer, prefix), names[2]+" "+names[1]+" "+names[0])
		answer = get(t, client, prefix, clientv3.WithPrefix(), clientv3.WithSort(order.target, clientv3.SortDescend), clientv3.WithLimit(1))
		equal(t, fmt.Sprintf("the last by %d", order.target), keys(answer, prefix), names[2])
		equal(t, "count beside a limit", answer.Count, 3)
	}
	ends := []struct {
		options []clientv3.OpOption
		want    string
	}{
		{clientv3.WithFirstKey(), "a"}, {clientv3.WithLastKey(), "c"},
		{clientv3.WithFirstCreate(), "b"}, {clientv3.WithLastCreate(), "c"},
		{clientv3.WithFirstRev(), "c"}, {clientv3.WithLastRev(), "b"},
	}
	for i, end := range ends {
		answer := get(t, client, prefix, append(end.options, clientv3.WithPrefix())...)
		equal(t, fmt.Sprintf("end %d", i), keys(answer, prefix), end.want)
	}
	// Created at 0, 1, 2 from the first; modified at 5 (b), 4 (a), 2 (c).
	bounds := []struct {
		option clientv3.OpOption
		want   string
	}{
		{clientv3.WithMinCreateRev(first + 1), "a c"}, {clientv3.WithMaxCreateRev(first + 1), "a b"},
		{clientv3.WithMinModRev(first + 4), "a b"}, {clientv3.WithMaxModRev(first + 4), "a c"},
	}
	for i, bound := range bounds {
		answer := get(t, client, prefix, clientv3.WithPrefix(), bound.option)
		equal(t, fmt.Sprintf("bound %d", i), keys(answer, prefix), bound.want)
	}
}

func TestDeletes(t *testing.T) {
	client, prefix := member(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		put(t, client, prefix+name, "value of "+name)
	}
	before := get(t, client, prefix+"a").Header.Revision
	response, err := client.Delete(soon(t), prefix+"absent")
	succeeds(t, err)
	equal(t, "deleted", response.Deleted, 0)
	equal(t, "revision after nothing was deleted", response.Header.Revision, before)

	response, err = client.Delete(soon(t), prefix+"a", clientv3.WithPrevKV())
	succeeds(t, err)
	equal(t, "deleted", response.Deleted, 1)
	equal(t, "value before", string(response.PrevKvs[0].Value), "value of a")
	equal(t, "revision", response.Header.Revision, before+1)

	response, err = client.Delete(soon(t), prefix+"b", clientv3.WithRange(prefix+"d"), clientv3.WithPrevKV())
	succeeds(t, err)
	equal(t, "deleted", response.Deleted, 2)
	equal(t, "revision: one for all", response.Header.Revision, before+2)
	equal(t, "values before", string(response.PrevKvs[0].Value)+", "+string(response.PrevKvs[1].Value), "value of b, value of c")
	equal(t, "left", keys(get(t, client, prefix, clientv3.WithPrefix()), prefix), "d e")

	response, err = client.Delete(soon(t), prefix, clientv3.WithPrefix())
	succeeds(t, err)
	equal(t, "deleted", response.Deleted, 2)
	equal(t, "left", get(t, client, prefix, clientv3.WithPrefix()).Count, 0)

	// A key that comes back begins anew.
	put(t, client, prefix+"a", "again")
	kv := get(t, client, prefix+"a").Kvs[0]
	equal(t, "version", kv.Version, 1)
	equal(t, "create revision", kv.CreateRevision, before+4)
}

func TestPutsThatKeepValueOrLease(t *testing.T) {
	client, prefix := member(t)
	key := prefix + "key"
	_, err := client.Put(soon(t), key, "", clientv3.WithIgnoreValue())
	fails(t, err, rpctypes.ErrKeyNotFound)
	_, err = client.Put(soon(t), key, "value", clientv3.WithIgnoreLease())
	fails(t, err, rpctypes.ErrKeyNotFound)

	lease, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	defer client.Revoke(soon(t), lease.ID)
	put(t, client, key, "one", clientv3.WithLease(lease.ID))
	put(t, client, key, "two", clientv3.WithIgnoreLease())
	kv := get(t, client, key).Kvs[0]
	equal(t, "lease kept", kv.Lease, int64(lease.ID))
	equal(t, "value", string(kv.Value), "two")
	put(t, client, key, "", clientv3.WithIgnoreValue())
	kv = get(t, client, key).Kvs[0]
	equal(t, "value kept", string(kv.Value), "two")
	equal(t, "lease gone", kv.Lease, 0)
	equal(t, "version", kv.Version, 3)

	_, err = client.Put(soon(t), key, "value", clientv3.WithIgnoreValue())
	fails(t, err, rpctypes.ErrValueProvided)
	_, err = client.Put(soon(t), key, "value", clientv3.WithIgnoreLease(), clientv3.WithLease(lease.ID))
	fails(t, err, rpctypes.ErrLeaseProvided)
}

func TestRefusals(t *testing.T) {
	client, prefix := member(t)
	before := put(t, client, prefix+"key", "value")
	_, err := client.Put(soon(t), "", "value")
	fails(t, err, rpctypes.ErrEmptyKey)
	_, err = client.Get(soon(t), "")
	fails(t, err, rpctypes.ErrEmptyKey)
	_, err = client.Get(soon(t), prefix, clientv3.WithRev(before+1000))
	fails(t, err, rpctypes.ErrFutureRev)
	_, err = client.Put(soon(t), prefix+"key", "value", clientv3.WithLease(4711))
	fails(t, err, rpctypes.ErrLeaseNotFound)
	_, err = client.Put(soon(t), prefix+"key", strings.Repeat("x", 1600*1024))
	fails(t, err, rpctypes.ErrRequestTooLarge)
	// More than this the client does not send.
	_, err = client.Put(soon(t), prefix+"key", strings.Repeat("x", 3*1024*1024))
	equal(t, "code of a message that is too large", status.Code(err), codes.ResourceExhausted)

	var puts []clientv3.Op
	for i := range 129 {
		puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%d", prefix, i), ""))
	}
	_, err = client.Txn(soon(t)).Then(puts...).Commit()
	fails(t, err, rpctypes.ErrTooManyOps)
	_, err = client.Txn(soon(t)).Then(puts[0], puts[1], puts[0]).Commit()
	fails(t, err, rpctypes.ErrDuplicateKey)
	_, err = client.Compact(soon(t), before+1000)
	fails(t, err, rpctypes.ErrFutureRev)
	equal(t, "revision after refusals", get(t, client, prefix).Header.Revision, before)
	equal(t, "value after refusals", value(t, client, prefix+"key"), "value")
	_, err = client.Txn(soon(t)).Then(puts[:128]...).Commit()
	succeeds(t, err)
}

func TestOperationsAsValues(t *testing.T) {
	client, prefix := member(t)
	key := prefix + "key"
	response, err := client.Do(soon(t), clientv3.OpPut(key, "one"))
	succeeds(t, err)
	revision := response.Put().Header.Revision
	response, err = client.Do(soon(t), clientv3.OpGet(key))
	succeeds(t, err)
	equal(t, "value", string(response.Get().Kvs[0].Value), "one")
	response, err = client.Do(soon(t), clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", revision)},
		[]clientv3.Op{clientv3.OpPut(key, "two")}, nil))
	succeeds(t, err)
	equal(t, "succeeded", response.Txn().Succeeded, true)
	response, err = client.Do(soon(t), clientv3.OpDelete(key, clientv3.WithPrevKV()))
	succeeds(t, err)
	equal(t, "deleted", response.Del().Deleted, 1)
	equal(t, "value before", string(response.Del().PrevKvs[0].Value), "two")
}

func TestCompaction(t *testing.T) {
	client, prefix := member(t)
	key := prefix + "key"
	put(t, client, key, "one")
	gone := put(t, client, prefix+"gone", "value")
	_, err := client.Delete(soon(t), prefix+"gone")
	succeeds(t, err)
	kept := put(t, client, key, "two")
	put(t, client, key, "three")
	response, err := client.Compact(soon(t), kept, clientv3.WithCompactPhysical())
	succeeds(t, err)
	equal(t, "revision in the answer", response.Header.Revision, kept+1)

	_, err = client.Get(soon(t), key, clientv3.WithRev(kept-1))
	fails(t, err, rpctypes.ErrCompacted)
	_, err = client.Get(soon(t), prefix+"gone", clientv3.WithRev(gone))
	fails(t, err, rpctypes.ErrCompacted)
	equal(t, "value at the compacted revision", value(t, client, key, clientv3.WithRev(kept)), "two")
	equal(t, "value now", value(t, client, key), "three")
	_, err = client.Compact(soon(t), kept)
	fails(t, err, rpctypes.ErrCompacted)
	equal(t, "version", get(t, client, key).Kvs[0].Version, 3)
}

func TestRangeStream(t *testing.T) {
	client, prefix := member(t)
	big := strings.Repeat("x", 100*1024)
	for i := range 40 {
		put(t, client, fmt.Sprintf("%s%02d", prefix, i), fmt.Sprintf("%d %s", i, big))
	}
	if !isAtLeast(t, client, "3.7") {
		stream, err := client.GetStream(soon(t), prefix, clientv3.WithPrefix())
		if err == nil {
			_, err = clientv3.GetStreamToGetResponse(stream)
		}
		equal(t, "code before 3.7", status.Code(err), codes.Unimplemented)
		return
	}
	want := get(t, client, prefix, clientv3.WithPrefix())
	stream, err := client.GetStream(soon(t), prefix, clientv3.WithPrefix())
	succeeds(t, err)
	var kvs []*mvccpb.KeyValue
	chunks := 0
	var last clientv3.RangeStreamResponse
	for chunk := range stream {
		succeeds(t, chunk.Err())
		if len(chunk.Kvs) > 0 {
			chunks++
		}
		kvs = append(kvs, chunk.Kvs...)
		last = chunk
	}
	holds(t, fmt.Sprintf("4 MB come in several pieces, not %d", chunks), chunks > 1)
	equal(t, "count at the end", last.Count, 40)
	equal(t, "revision at the end", last.Header.Revision, want.Header.Revision)
	equal(t, "number of keys", len(kvs), len(want.Kvs))
	for i, kv := range kvs {
		equal(t, "key", string(kv.Key), string(want.Kvs[i].Key))
		equal(t, "value", string(kv.Value), string(want.Kvs[i].Value))
		equal(t, "mod revision", kv.ModRevision, want.Kvs[i].ModRevision)
	}
	stream, err = client.GetStream(soon(t), prefix, clientv3.WithPrefix(), clientv3.WithLimit(25))
	succeeds(t, err)
	limited, err := clientv3.GetStreamToGetResponse(stream)
	succeeds(t, err)
	equal(t, "keys with a limit", len(limited.Kvs), 25)
	equal(t, "more with a limit", limited.More, true)
	equal(t, "count with a limit", limited.Count, 40)
}
