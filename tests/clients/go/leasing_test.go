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

// A proxy and a client of etcd's own own keys by lease keys below one prefix.
func TestLeasingBesideAProxy(t *testing.T) {
	client, prefix := member(t)
	proxy := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_LEASING_PROXY")})
	const leases = "leasing-proxy/"
	beside, end, err := leasing.NewKV(dial(t, clientv3.Config{Endpoints: client.Endpoints()}), leases)
	succeeds(t, err)
	t.Cleanup(end)
	key := prefix + "key"
	owner := func() clientv3.LeaseID {
		found := get(t, client, leases+key)
		equal(t, "lease keys", found.Count, 1)
		equal(t, "their value", string(found.Kvs[0].Value), "")
		return clientv3.LeaseID(found.Kvs[0].Lease)
	}

	put(t, client, key, "1")
	equal(t, "first read by the proxy", value(t, proxy, key), "1")
	first := owner()
	put(t, client, key, "behind its back")
	equal(t, "read from the proxy's memory", value(t, proxy, key), "1")

	put(t, beside, key, "2")
	equal(t, "read by the proxy", value(t, proxy, key), "2")
	equal(t, "read by the client", value(t, beside, key), "2")
	holds(t, "the client owns it now", owner() != first)
	put(t, client, key, "behind its back")
	equal(t, "read from the client's memory", value(t, beside, key), "2")

	put(t, proxy, key, "3")
	equal(t, "read by the client", value(t, beside, key), "3")
	equal(t, "serializable read by the proxy", value(t, proxy, key, clientv3.WithSerializable()), "3")

	// Transactions and ranges, both ways.
	other := prefix + "other"
	equal(t, "absent for the proxy", value(t, proxy, other), "absent")
	for _, step := range []struct {
		kv     clientv3.KV
		before string
		after  string
	}{{beside, "absent", "a"}, {proxy, "a", "b"}, {beside, "b", "c"}} {
		equal(t, "read by the proxy", value(t, proxy, other), step.before)
		equal(t, "read by the client", value(t, beside, other), step.before)
		response, err := step.kv.Txn(soon(t)).
			If(clientv3.Compare(clientv3.ModRevision(other), ">", -1)).
			Then(clientv3.OpPut(other, step.after), clientv3.OpGet(other)).
			Commit()
		succeeds(t, err)
		equal(t, "read inside", string(response.Responses[1].GetResponseRange().Kvs[0].Value), step.after)
		equal(t, "read by the proxy", value(t, proxy, other), step.after)
		equal(t, "read by the client", value(t, beside, other), step.after)
	}
	for _, kv := range []clientv3.KV{proxy, beside} {
		put(t, kv, key, "again")
		equal(t, "read by the proxy", value(t, proxy, key), "again")
		equal(t, "read by the client", value(t, beside, key), "again")
		_, err := kv.Delete(soon(t), prefix, clientv3.WithPrefix())
		succeeds(t, err)
		equal(t, "read by the proxy", value(t, proxy, key), "absent")
		equal(t, "read by the client", value(t, beside, key), "absent")
	}
}
