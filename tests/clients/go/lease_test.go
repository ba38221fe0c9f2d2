package clients

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestLeases(t *testing.T) {
	client, prefix := member(t)
	granted, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	equal(t, "time to live", granted.TTL, 600)
	holds(t, "the member has chosen an id", granted.ID > 0)

	key := prefix + "key"
	put(t, client, key, "1", clientv3.WithLease(granted.ID))
	put(t, client, prefix+"other", "2", clientv3.WithLease(granted.ID))
	equal(t, "lease of the key", get(t, client, key).Kvs[0].Lease, int64(granted.ID))
	left, err := client.TimeToLive(soon(t), granted.ID, clientv3.WithAttachedKeys())
	succeeds(t, err)
	equal(t, "granted", left.GrantedTTL, 600)
	holds(t, "time is left", left.TTL > 500 && left.TTL <= 600)
	var attached []string
	for _, each := range left.Keys {
		attached = append(attached, string(each))
	}
	slices.Sort(attached)
	equal(t, "attached keys", attached, []string{key, prefix + "other"})
	left, err = client.TimeToLive(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "keys that were not asked for", len(left.Keys), 0)
	leases, err := client.Leases(soon(t))
	succeeds(t, err)
	holds(t, "the lease is listed", slices.Contains(leases.Leases, clientv3.LeaseStatus{ID: granted.ID}))

	// A key has the lease of its last put.
	second, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	put(t, client, prefix+"other", "3", clientv3.WithLease(second.ID))
	put(t, client, prefix+"free", "4", clientv3.WithLease(granted.ID))
	put(t, client, prefix+"free", "5")
	channel := watch(t, client, prefix, clientv3.WithPrefix())
	revoked, err := client.Revoke(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "event", events(t, channel, 1, prefix, revoked.Header.Revision), "delete key@0")
	equal(t, "left", keys(get(t, client, prefix, clientv3.WithPrefix()), prefix), "free other")
	_, err = client.Revoke(soon(t), second.ID)
	succeeds(t, err)
	equal(t, "left", keys(get(t, client, prefix, clientv3.WithPrefix()), prefix), "free")
}

func TestRefusalsOfLeases(t *testing.T) {
	client, prefix := member(t)
	const absent = clientv3.LeaseID(4711)
	_, err := client.Revoke(soon(t), absent)
	fails(t, err, rpctypes.ErrLeaseNotFound)
	_, err = client.KeepAliveOnce(soon(t), absent)
	fails(t, err, rpctypes.ErrLeaseNotFound)
	left, err := client.TimeToLive(soon(t), absent)
	succeeds(t, err)
	equal(t, "time left of an absent lease", left.TTL, -1)
	_, err = client.Grant(soon(t), clientv3.MaxLeaseTTL+1)
	fails(t, err, rpctypes.ErrLeaseTTLTooLarge)
	channel, err := client.KeepAlive(soon(t), absent)
	succeeds(t, err)
	closes(t, channel)
	_, err = client.Put(soon(t), prefix+"key", "value", clientv3.WithLease(absent))
	fails(t, err, rpctypes.ErrLeaseNotFound)
	// Shorter than an election is impossible.
	granted, err := client.Grant(soon(t), 1)
	succeeds(t, err)
	equal(t, "shortest time to live", granted.TTL, 2)
}

func TestKeysGoWithTheirLease(t *testing.T) {
	t.Parallel()
	client, prefix := member(t)
	granted, err := client.Grant(soon(t), 2)
	succeeds(t, err)
	begun := time.Now()
	channel := watch(t, client, prefix, clientv3.WithPrefix())
	base := put(t, client, prefix+"key", "1", clientv3.WithLease(granted.ID))
	equal(t, "put", events(t, channel, 1, prefix, base), "put key=1@0")
	response := receive(t, channel)
	equal(t, "event", response.Events[0].Type, clientv3.EventTypeDelete)
	holds(t, "not before its time", time.Since(begun) >= 1900*time.Millisecond)
	equal(t, "value", value(t, client, prefix+"key"), "absent")
	becomes(t, "the lease is gone", func() bool {
		left, err := client.TimeToLive(soon(t), granted.ID)
		succeeds(t, err)
		return left.TTL == -1
	})
	_, err = client.KeepAliveOnce(soon(t), granted.ID)
	fails(t, err, rpctypes.ErrLeaseNotFound)
}

func TestLeasesAreKeptAlive(t *testing.T) {
	t.Parallel()
	client, prefix := member(t)
	granted, err := client.Grant(soon(t), 2)
	succeeds(t, err)
	put(t, client, prefix+"key", "1", clientv3.WithLease(granted.ID))
	once, err := client.KeepAliveOnce(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "time to live", once.TTL, 2)
	ctx, cancel := context.WithCancel(soon(t))
	channel, err := client.KeepAlive(ctx, granted.ID)
	succeeds(t, err)
	again, err := client.KeepAlive(soon(t), granted.ID)
	succeeds(t, err)
	begun := time.Now()
	for time.Since(begun) < 4*time.Second {
		renewed := receive(t, channel)
		equal(t, "lease", renewed.ID, granted.ID)
		equal(t, "time to live", renewed.TTL, 2)
		receive(t, again)
	}
	equal(t, "value", value(t, client, prefix+"key"), "1")
	cancel()
	closes(t, channel)
	_, err = client.Revoke(soon(t), granted.ID)
	succeeds(t, err)
	closes(t, again)
	equal(t, "value", value(t, client, prefix+"key"), "absent")
}
