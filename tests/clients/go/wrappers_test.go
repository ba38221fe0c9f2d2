package clients

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

func TestMirror(t *testing.T) {
	client, prefix := member(t)
	// More than the 1000 that it asks for at once.
	const count = 1250
	var base int64
	for begin := 0; begin < count; begin += 125 {
		var puts []clientv3.Op
		for i := begin; i < begin+125; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%04d", prefix, i), "first"))
		}
		response, err := client.Txn(soon(t)).Then(puts...).Commit()
		succeeds(t, err)
		base = response.Header.Revision
	}
	ctx, cancel := context.WithCancel(soon(t))
	syncer := mirror.NewSyncer(client, prefix, 0)
	answers, errs := syncer.SyncBase(ctx)
	copied := map[string]string{}
	parts := 0
	for answer := range answers {
		parts++
		for _, kv := range answer.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	err, isThere := <-errs
	holds(t, fmt.Sprintf("no error: %v", err), !isThere)
	equal(t, "copied", len(copied), count)
	equal(t, "parts", parts, 2)

	updates := syncer.SyncUpdates(ctx)
	put(t, client, prefix+"0000", "second")
	_, err = client.Delete(soon(t), prefix+"0001")
	succeeds(t, err)
	equal(t, "updates", events(t, updates, 2, prefix, base), "put 0000=second@1, delete 0001@2")
	cancel()
	closes(t, updates)

	// A mirror of an earlier revision begins with what was there then.
	answers, _ = mirror.NewSyncer(client, prefix, base).SyncBase(soon(t))
	answer := receive(t, answers)
	equal(t, "value at the earlier revision", string(answer.Kvs[0].Value), "first")
	equal(t, "a key deleted since", string(answer.Kvs[1].Key), prefix+"0001")
}

func TestNamespaces(t *testing.T) {
	client, prefix := member(t)
	kv, watcher, lessor := namespace.NewKV(client.KV, prefix), namespace.NewWatcher(client.Watcher, prefix), namespace.NewLease(client.Lease, prefix)
	channel := watch(t, watcher, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	base := put(t, kv, "a", "1")
	equal(t, "with its prefix", value(t, client, prefix+"a"), "1")
	equal(t, "without", string(get(t, kv, "a").Kvs[0].Key), "a")
	put(t, client, prefix+"b", "2")
	put(t, client, prefix[:len(prefix)-1]+"beside", "x")
	defer client.Delete(soon(t), prefix[:len(prefix)-1]+"beside")
	equal(t, "all", keys(get(t, kv, "", clientv3.WithPrefix()), ""), "a b")
	equal(t, "from a key", keys(get(t, kv, "b", clientv3.WithFromKey()), ""), "b")
	equal(t, "range", keys(get(t, kv, "a", clientv3.WithRange("b")), ""), "a")
	_, err := kv.Put(soon(t), "", "value")
	fails(t, err, rpctypes.ErrEmptyKey)

	response, err := kv.Txn(soon(t)).
		If(clientv3.Compare(clientv3.Value("a"), "=", "1"), clientv3.Compare(clientv3.Version(""), ">", 0).WithPrefix()).
		Then(clientv3.OpPut("a", "3"), clientv3.OpGet("", clientv3.WithPrefix()), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("b", clientv3.WithPrevKV())}, nil)).
		Commit()
	succeeds(t, err)
	equal(t, "succeeded", response.Succeeded, true)
	equal(t, "range inside", keys((*clientv3.GetResponse)(response.Responses[1].GetResponseRange()), ""), "a b")
	equal(t, "deleted inside", string(response.Responses[2].GetResponseTxn().Responses[0].GetResponseDeleteRange().PrevKvs[0].Key), "b")
	equal(t, "events", events(t, channel, 4, "", base), "put a=1@0, put b=2@1, put a=3@3 (was 1), delete b@3 (was 2)")

	granted, err := lessor.Grant(soon(t), 600)
	succeeds(t, err)
	defer client.Revoke(soon(t), granted.ID)
	put(t, kv, "leased", "1", clientv3.WithLease(granted.ID))
	put(t, client, "outside", "1", clientv3.WithLease(granted.ID))
	left, err := lessor.TimeToLive(soon(t), granted.ID, clientv3.WithAttachedKeys())
	succeeds(t, err)
	equal(t, "attached keys", fmt.Sprintf("%s", left.Keys), "[leased]")
	deleted, err := kv.Delete(soon(t), "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	succeeds(t, err)
	equal(t, "deleted", deleted.Deleted, 2)
	equal(t, "key before", string(deleted.PrevKvs[0].Key), "a")
	equal(t, "beside the namespace", get(t, client, prefix[:len(prefix)-1]+"beside").Count, 1)
}

func TestOrderingSeesAnOlderMember(t *testing.T) {
	// Two members that are no cluster: to a client that goes from one to the other, the second is one that has fallen behind.
	ahead, prefix := member(t)
	behind := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_AUTH_MEMBER")})
	at := get(t, behind, prefix).Header.Revision
	for get(t, ahead, prefix).Header.Revision <= at+1 {
		put(t, ahead, prefix+"key", "value")
	}
	client := dial(t, clientv3.Config{Endpoints: ahead.Endpoints()})
	var violations []int64
	ordered := ordering.NewKV(client.KV, func(op clientv3.Op, response clientv3.OpResponse, previous int64) error {
		violations = append(violations, previous)
		if len(violations) < 3 {
			return nil
		}
		return ordering.ErrNoGreaterRev
	})
	revision := get(t, ordered, prefix+"key").Header.Revision
	get(t, ordered, prefix+"key")
	client.SetEndpoints(behind.Endpoints()...)
	becomes(t, "the client asks the other member", func() bool { return get(t, client, prefix).Header.Revision == at })
	_, err := ordered.Get(soon(t), prefix+"key", clientv3.WithSerializable())
	fails(t, err, ordering.ErrNoGreaterRev)
	equal(t, "violations", violations, slices.Repeat([]int64{revision}, 3))
	_, err = ordered.Txn(soon(t)).Then(clientv3.OpGet(prefix + "key")).Commit()
	fails(t, err, ordering.ErrNoGreaterRev)

	// Among the members of a cluster there is always one that is new enough.
	all, each, prefix := cluster(t)
	ordered = ordering.NewKV(all.KV, ordering.NewOrderViolationSwitchEndpointClosure(all))
	var last int64
	for i := range 30 {
		put(t, each[i%3], prefix+"key", fmt.Sprint(i))
		kind := clientv3.WithSerializable()
		if i%5 == 0 {
			kind = clientv3.WithRev(0)
		}
		seen := get(t, ordered, prefix+"key", kind).Header.Revision
		holds(t, "revisions do not go back", seen >= last)
		last = seen
	}
}
