package clients

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
)

func leasingKV(t *testing.T, client *clientv3.Client, prefix string) clientv3.KV {
	t.Helper()
	kv, end, err := leasing.NewKV(client, prefix+"leases/", concurrency.WithTTL(60))
	succeeds(t, err)
	t.Cleanup(end)
	return kv
}

func TestLeasingReadsFromItsCache(t *testing.T) {
	client, prefix := member(t)
	other := dial(t, clientv3.Config{Endpoints: client.Endpoints()})
	one, two := leasingKV(t, client, prefix), leasingKV(t, other, prefix)
	key := prefix + "key"
	put(t, client, key, "1")
	equal(t, "first read", value(t, one, key), "1")
	equal(t, "the lease of the key", get(t, client, prefix+"leases/"+key).Count, 1)
	// Past the protocol: whoever sees this has asked the member.
	put(t, client, key, "behind its back")
	equal(t, "read from the cache", value(t, one, key), "1")
	equal(t, "serializable read from the cache", value(t, one, key, clientv3.WithSerializable()), "1")

	// Another that keeps to the protocol takes the lease away first.
	put(t, two, key, "2")
	equal(t, "read after another's write", value(t, one, key), "2")
	equal(t, "read by the other", value(t, two, key), "2")
	base := put(t, one, key, "3")
	equal(t, "read by the other", value(t, two, key), "3")
	equal(t, "mod revision", get(t, client, key).Kvs[0].ModRevision, base)

	_, err := two.Delete(soon(t), key)
	succeeds(t, err)
	equal(t, "read after another's deletion", value(t, one, key), "absent")
}

func TestLeasingTransactions(t *testing.T) {
	client, prefix := member(t)
	one, two := leasingKV(t, client, prefix), leasingKV(t, dial(t, clientv3.Config{Endpoints: client.Endpoints()}), prefix)
	a, b := prefix+"a", prefix+"b"
	put(t, one, a, "1")
	put(t, one, b, "1")
	equal(t, "leased", value(t, one, a), "1")
	equal(t, "leased by the other", value(t, two, b), "1")
	for i, kv := range []clientv3.KV{one, two} {
		before := value(t, client, a)
		response, err := kv.Txn(soon(t)).
			If(clientv3.Compare(clientv3.Value(a), "=", before), clientv3.Compare(clientv3.Value(b), "=", before)).
			Then(clientv3.OpPut(a, before+"+"), clientv3.OpPut(b, before+"+"), clientv3.OpGet(a)).
			Else(clientv3.OpGet(a)).
			Commit()
		succeeds(t, err)
		equal(t, "succeeded", response.Succeeded, true)
		equal(t, "read inside", string(response.Responses[2].GetResponseRange().Kvs[0].Value), before+"+")
		equal(t, "read by one", value(t, one, a), before+"+")
		equal(t, "read by the other", value(t, two, b), before+"+")
		equal(t, "read by anybody", value(t, client, b), "1++"[:2+i])
	}
	response, err := one.Txn(soon(t)).If(clientv3.Compare(clientv3.Value(a), "=", "wrong")).Then(clientv3.OpPut(a, "x")).Else(clientv3.OpGet(b)).Commit()
	succeeds(t, err)
	equal(t, "succeeded", response.Succeeded, false)
	equal(t, "read in the other branch", string(response.Responses[0].GetResponseRange().Kvs[0].Value), "1++")

	// Deleting a range takes all leases in it.
	deleted, err := two.Delete(soon(t), prefix+"a", clientv3.WithRange(prefix+"c"))
	succeeds(t, err)
	equal(t, "deleted", deleted.Deleted, 2)
	equal(t, "read by one", value(t, one, a), "absent")
	equal(t, "range", get(t, one, prefix+"a", clientv3.WithRange(prefix+"c")).Count, 0)
	done, err := one.Do(soon(t), clientv3.OpPut(a, "again"))
	succeeds(t, err)
	equal(t, "read by the other", get(t, two, a).Kvs[0].ModRevision, done.Put().Header.Revision)
}
