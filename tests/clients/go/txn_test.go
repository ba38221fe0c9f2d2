package clients

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
)

func TestComparisons(t *testing.T) {
	client, prefix := member(t)
	key, absent := prefix+"key", prefix+"absent"
	lease, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	defer client.Revoke(soon(t), lease.ID)
	created := put(t, client, key, "m")
	put(t, client, key, "m", clientv3.WithLease(lease.ID))
	put(t, client, prefix+"other", "z")

	comparisons := []struct {
		cmp  clientv3.Cmp
		want bool
	}{
		{clientv3.Compare(clientv3.Value(key), "=", "m"), true},
		{clientv3.Compare(clientv3.Value(key), "!=", "m"), false},
		{clientv3.Compare(clientv3.Value(key), "<", "n"), true},
		{clientv3.Compare(clientv3.Value(key), "<", "m"), false},
		{clientv3.Compare(clientv3.Value(key), ">", "l"), true},
		{clientv3.Compare(clientv3.Value(key), ">", "m"), false},
		{clientv3.Compare(clientv3.Version(key), "=", 2), true},
		{clientv3.Compare(clientv3.Version(key), ">", 1), true},
		{clientv3.Compare(clientv3.Version(key), "<", 2), false},
		{clientv3.Compare(clientv3.CreateRevision(key), "=", created), true},
		{clientv3.Compare(clientv3.CreateRevision(key), "!=", created), false},
		{clientv3.Compare(clientv3.ModRevision(key), "=", created+1), true},
		{clientv3.Compare(clientv3.ModRevision(key), "<", created+1), false},
		{clientv3.Compare(clientv3.LeaseValue(key), "=", lease.ID), true},
		{clientv3.Compare(clientv3.LeaseValue(key), "=", 0), false},
		// A key that is absent has version, revisions and lease 0, and no value that anything could be compared with.
		{clientv3.Compare(clientv3.Version(absent), "=", 0), true},
		{clientv3.Compare(clientv3.CreateRevision(absent), "=", 0), true},
		{clientv3.Compare(clientv3.ModRevision(absent), ">", 0), false},
		{clientv3.Compare(clientv3.LeaseValue(absent), "=", 0), true},
		{clientv3.Compare(clientv3.Value(absent), "=", ""), false},
		{clientv3.Compare(clientv3.Value(absent), "!=", "x"), false},
		{clientv3util.KeyExists(key), true},
		{clientv3util.KeyExists(absent), false},
		{clientv3util.KeyMissing(absent), true},
		// Of a range, every key must compare; in an empty one every key does.
		{clientv3.Compare(clientv3.Version(prefix), ">", 0).WithPrefix(), true},
		{clientv3.Compare(clientv3.Version(prefix), "=", 2).WithPrefix(), false},
		{clientv3.Compare(clientv3.Value(key), "=", "m").WithRange(key + "\x00"), true},
		{clientv3.Compare(clientv3.Value(prefix), "<", "n").WithPrefix(), false},
	}
	for i, each := range comparisons {
		response, err := client.Txn(soon(t)).If(each.cmp).Commit()
		succeeds(t, err)
		equal(t, fmt.Sprintf("comparison %d", i), response.Succeeded, each.want)
	}
	response, err := client.Txn(soon(t)).If(comparisons[0].cmp, comparisons[1].cmp).Commit()
	succeeds(t, err)
	equal(t, "a true comparison and a false one", response.Succeeded, false)
	response, err = client.Txn(soon(t)).Commit()
	succeeds(t, err)
	equal(t, "no comparison", response.Succeeded, true)
}

func TestTransactionsAreOneRevision(t *testing.T) {
	client, prefix := member(t)
	before := put(t, client, prefix+"a", "old")
	response, err := client.Txn(soon(t)).
		If(clientv3.Compare(clientv3.Value(prefix+"a"), "=", "old")).
		Then(
			clientv3.OpPut(prefix+"b", "new"),
			clientv3.OpGet(prefix, clientv3.WithPrefix()),
			clientv3.OpDelete(prefix+"a", clientv3.WithPrevKV()),
			clientv3.OpGet(prefix, clientv3.WithPrefix()),
			clientv3.OpPut(prefix+"c", "new"),
		).
		Else(clientv3.OpPut(prefix+"wrong", "branch")).
		Commit()
	succeeds(t, err)
	equal(t, "succeeded", response.Succeeded, true)
	equal(t, "revision", response.Header.Revision, before+1)
	equal(t, "responses", len(response.Responses), 5)
	// Operations see those before them.
	equal(t, "first range", keys((*clientv3.GetResponse)(response.Responses[1].GetResponseRange()), prefix), "a b")
	equal(t, "deleted", string(response.Responses[2].GetResponseDeleteRange().PrevKvs[0].Value), "old")
	equal(t, "second range", keys((*clientv3.GetResponse)(response.Responses[3].GetResponseRange()), prefix), "b")
	for _, kv := range get(t, client, prefix, clientv3.WithPrefix()).Kvs {
		equal(t, "mod revision of "+string(kv.Key), kv.ModRevision, before+1)
	}

	// The events of one transaction come together, in order.
	watched := receive(t, client.Watch(soon(t), prefix, clientv3.WithPrefix(), clientv3.WithRev(before+1)))
	var events string
	for _, event := range watched.Events {
		events += event.Type.String() + " " + string(event.Kv.Key[len(prefix):]) + ";"
	}
	equal(t, "events", events, "PUT b;DELETE a;PUT c;")

	response, err = client.Txn(soon(t)).
		If(clientv3.Compare(clientv3.Value(prefix+"b"), "=", "old")).
		Then(clientv3.OpPut(prefix+"wrong", "branch")).
		Else(clientv3.OpGet(prefix + "b")).
		Commit()
	succeeds(t, err)
	equal(t, "succeeded", response.Succeeded, false)
	equal(t, "read in the other branch", string(response.Responses[0].GetResponseRange().Kvs[0].Value), "new")
	equal(t, "revision after reads only", response.Header.Revision, before+1)
}

func TestNestedTransactions(t *testing.T) {
	client, prefix := member(t)
	put(t, client, prefix+"a", "1")
	nested := func(want string) clientv3.Op {
		return clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value(prefix+"a"), "=", want)},
			[]clientv3.Op{clientv3.OpPut(prefix+"then", want), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(prefix+"deep", want)}, nil)},
			[]clientv3.Op{clientv3.OpPut(prefix+"else", want)})
	}
	response, err := client.Txn(soon(t)).Then(clientv3.OpPut(prefix+"outer", "x"), nested("1")).Commit()
	succeeds(t, err)
	inner := response.Responses[1].GetResponseTxn()
	equal(t, "inner succeeded", inner.Succeeded, true)
	equal(t, "responses of the inner", len(inner.Responses), 2)
	equal(t, "written", keys(get(t, client, prefix, clientv3.WithPrefix()), prefix), "a deep outer then")
	equal(t, "one revision", get(t, client, prefix+"deep").Kvs[0].ModRevision, get(t, client, prefix+"outer").Kvs[0].ModRevision)

	response, err = client.Txn(soon(t)).Then(nested("2")).Commit()
	succeeds(t, err)
	equal(t, "outer succeeded", response.Succeeded, true)
	equal(t, "inner succeeded", response.Responses[0].GetResponseTxn().Succeeded, false)
	equal(t, "written", value(t, client, prefix+"else"), "2")
}
