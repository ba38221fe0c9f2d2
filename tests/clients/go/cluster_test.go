package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// urlOfNobody is a URL at which nobody listens.
func urlOfNobody(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	succeeds(t, err)
	defer listener.Close()
	return "http://" + listener.Addr().String()
}

// leader returns the client of the leader and that of another member, with their ids.
func leader(t *testing.T, each []*clientv3.Client) (leads, follows *clientv3.Client, leaderID, followerID uint64) {
	t.Helper()
	for _, client := range each {
		status, err := client.Status(soon(t), client.Endpoints()[0])
		succeeds(t, err)
		if status.Leader == status.Header.MemberId {
			leads, leaderID = client, status.Leader
		} else {
			follows, followerID = client, status.Header.MemberId
		}
	}
	holds(t, "there is a leader", leads != nil)
	return leads, follows, leaderID, followerID
}

func TestMembersOfACluster(t *testing.T) {
	client, each, _ := cluster(t)
	list, err := client.MemberList(soon(t))
	succeeds(t, err)
	equal(t, "members", len(list.Members), 3)
	var urls, names []string
	for _, member := range list.Members {
		urls = append(urls, strings.TrimPrefix(member.ClientURLs[0], "http://"))
		names = append(names, member.Name)
		equal(t, "learner", member.IsLearner, false)
	}
	slices.Sort(urls)
	slices.Sort(names)
	endpoints := slices.Sorted(slices.Values(client.Endpoints()))
	equal(t, "client URLs", urls, endpoints)
	equal(t, "names", names, []string{"cluster0", "cluster1", "cluster2"})
	for _, one := range each {
		local, err := one.MemberList(soon(t), clientv3.WithSerializable())
		succeeds(t, err)
		equal(t, "members as each knows them", fmt.Sprint(local.Members), fmt.Sprint(list.Members))
		equal(t, "cluster", local.Header.ClusterId, list.Header.ClusterId)
	}
	// A client that knows one member learns the others.
	succeeds(t, each[0].Sync(soon(t)))
	synced := each[0].Endpoints()
	for i := range synced {
		synced[i] = strings.TrimPrefix(synced[i], "http://")
	}
	slices.Sort(synced)
	equal(t, "endpoints after Sync", synced, endpoints)
}

func TestMembershipChanges(t *testing.T) {
	// Not beside the test that moves the leader: a change that is forwarded to one that has just left is lost, and its client waits.
	// The leader for all: another would not know yet what this one has done, and a change that comes to the leader before it has
	// applied the one before is dropped, and its client waits.
	_, each, _ := cluster(t)
	client, _, _, _ := leader(t, each)
	url, moved := urlOfNobody(t), urlOfNobody(t)
	var added *clientv3.MemberAddResponse
	var err error
	becomes(t, "the members have known each other for long enough", func() bool {
		added, err = client.MemberAddAsLearner(soon(t), []string{url})
		return !errors.Is(err, rpctypes.ErrUnhealthy)
	})
	succeeds(t, err)
	id := added.Member.ID
	defer client.MemberRemove(soon(t), id)
	equal(t, "members", len(added.Members), 4)
	equal(t, "learner", added.Member.IsLearner, true)
	equal(t, "peer URLs", added.Member.PeerURLs, []string{url})
	_, err = client.MemberPromote(soon(t), id)
	fails(t, err, rpctypes.ErrMemberLearnerNotReady)
	voter := slices.IndexFunc(added.Members, func(member *pb.Member) bool { return !member.IsLearner })
	_, err = client.MemberAddAsLearner(soon(t), added.Members[voter].PeerURLs)
	fails(t, err, rpctypes.ErrPeerURLExist)
	_, err = client.MemberAddAsLearner(soon(t), []string{urlOfNobody(t)})
	fails(t, err, rpctypes.ErrTooManyLearners)
	updated, err := client.MemberUpdate(soon(t), id, []string{moved})
	succeeds(t, err)
	for _, member := range updated.Members {
		if member.ID == id {
			equal(t, "peer URLs", member.PeerURLs, []string{moved})
		}
	}
	removed, err := client.MemberRemove(soon(t), id)
	succeeds(t, err)
	equal(t, "members", len(removed.Members), 3)

	_, err = client.MemberRemove(soon(t), id)
	fails(t, err, rpctypes.ErrMemberNotFound)
	_, err = client.MemberUpdate(soon(t), 4711, []string{moved})
	fails(t, err, rpctypes.ErrMemberNotFound)
	_, err = client.MemberPromote(soon(t), 4711)
	fails(t, err, rpctypes.ErrMemberNotFound)
	_, err = client.MemberPromote(soon(t), removed.Members[0].ID)
	fails(t, err, rpctypes.ErrMemberNotLearner)
	_, err = client.MemberAdd(soon(t), []string{"no url"})
	holds(t, fmt.Sprintf("that is no URL: %v", err), err != nil && strings.Contains(err.Error(), "URL scheme must be http"))

	// A voter too: the three others stay a majority of four.
	fourth, err := client.MemberAdd(soon(t), []string{urlOfNobody(t)})
	succeeds(t, err)
	equal(t, "learner", fourth.Member.IsLearner, false)
	_, err = client.MemberRemove(soon(t), fourth.Member.ID)
	succeeds(t, err)
}

func TestEveryMemberTellsTheSame(t *testing.T) {
	client, each, prefix := cluster(t)
	for i, one := range each {
		key := fmt.Sprint(prefix, i)
		revision := put(t, one, key, "through "+one.Endpoints()[0])
		for _, other := range each {
			answer := get(t, other, key)
			equal(t, "value", string(answer.Kvs[0].Value), "through "+one.Endpoints()[0])
			equal(t, "revision", answer.Kvs[0].ModRevision, revision)
			holds(t, "linearizable", answer.Header.Revision >= revision)
		}
	}
	// A lease that one member grants is known to all; so is its end.
	granted, err := each[0].Grant(soon(t), 600)
	succeeds(t, err)
	put(t, each[1], prefix+"leased", "value", clientv3.WithLease(granted.ID))
	for _, one := range each {
		renewed, err := one.KeepAliveOnce(soon(t), granted.ID)
		succeeds(t, err)
		equal(t, "time to live", renewed.TTL, 600)
		left, err := one.TimeToLive(soon(t), granted.ID, clientv3.WithAttachedKeys())
		succeeds(t, err)
		equal(t, "attached keys", len(left.Keys), 1)
	}
	_, err = each[2].Revoke(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "value", value(t, client, prefix+"leased"), "absent")
}

func TestLeadershipMovesUnderClients(t *testing.T) {
	client, each, prefix := cluster(t)
	leads, follows, _, followerID := leader(t, each)
	channel := watch(t, client, prefix, clientv3.WithPrefix())
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	granted, err := client.Grant(ctx, 600)
	succeeds(t, err)
	renewals, err := client.KeepAlive(ctx, granted.ID)
	succeeds(t, err)
	receive(t, renewals)
	base := put(t, client, prefix+"before", "1", clientv3.WithLease(granted.ID))

	_, err = follows.MoveLeader(soon(t), followerID)
	fails(t, err, rpctypes.ErrNotLeader)
	_, err = leads.MoveLeader(soon(t), 4711)
	fails(t, err, rpctypes.ErrBadLeaderTransferee)
	_, err = leads.MoveLeader(soon(t), followerID)
	succeeds(t, err)
	for _, one := range each {
		becomes(t, "all know the new leader", func() bool {
			status, err := one.Status(soon(t), one.Endpoints()[0])
			succeeds(t, err)
			return status.Leader == followerID
		})
	}
	for i := range 9 {
		put(t, client, fmt.Sprint(prefix, i), "2")
	}
	equal(t, "events", events(t, channel, 2, prefix, base)[:len("put before=1@0, put 0=2@")], "put before=1@0, put 0=2@")
	for _, one := range each {
		left, err := one.TimeToLive(soon(t), granted.ID)
		succeeds(t, err)
		holds(t, "the lease lives on", left.TTL > 500)
	}
}

func TestStatusOfMembers(t *testing.T) {
	client, each, prefix := cluster(t)
	put(t, client, prefix+"key", "value")
	_, _, leaderID, _ := leader(t, each)
	for _, one := range each {
		get(t, one, prefix+"key")
		status, err := client.Status(soon(t), one.Endpoints()[0])
		succeeds(t, err)
		equal(t, "leader", status.Leader, leaderID)
		equal(t, "learner", status.IsLearner, false)
		equal(t, "errors", len(status.Errors), 0)
		holds(t, "applied is not ahead of what is committed", status.RaftAppliedIndex <= status.RaftIndex && status.RaftAppliedIndex > 0)
		holds(t, "a term", status.RaftTerm > 0 && status.RaftTerm == status.Header.RaftTerm)
		holds(t, "what is in use is part of the file", status.DbSizeInUse > 0 && status.DbSizeInUse <= status.DbSize)
		equal(t, "a version of three numbers", len(strings.Split(status.Version, ".")), 3)
		if isAtLeast(t, one, "3.6") {
			becomes(t, "the storage is of the cluster's version", func() bool {
				again, err := client.Status(soon(t), one.Endpoints()[0])
				succeeds(t, err)
				return again.StorageVersion == status.Version[:4]+"0"
			})
			equal(t, "quota", status.DbSizeQuota, 2*1024*1024*1024)
			equal(t, "downgrade under way", status.DowngradeInfo.GetEnabled(), false)
		}
	}
}

func TestHashesAreEqual(t *testing.T) {
	client, each, prefix := cluster(t)
	var revision int64
	for i := range 20 {
		revision = put(t, client, fmt.Sprint(prefix, i%7), fmt.Sprint(i))
	}
	var hashes []uint32
	for _, one := range each {
		get(t, one, prefix)
		hash, err := one.HashKV(soon(t), one.Endpoints()[0], revision)
		succeeds(t, err)
		equal(t, "hash revision", hash.HashRevision, hashRevision(t, one, revision))
		hashes = append(hashes, hash.Hash)
	}
	equal(t, "hashes of the members", hashes, []uint32{hashes[0], hashes[0], hashes[0]})
	earlier, err := each[0].HashKV(soon(t), each[0].Endpoints()[0], revision-1)
	succeeds(t, err)
	holds(t, "an earlier revision has another hash", earlier.Hash != hashes[0])
	_, err = each[0].HashKV(soon(t), each[0].Endpoints()[0], revision+1000)
	fails(t, err, rpctypes.ErrFutureRev)
	whole, err := pb.NewMaintenanceClient(each[0].ActiveConnection()).Hash(soon(t), &pb.HashRequest{})
	succeeds(t, err)
	holds(t, "the backend has a hash", whole.Hash != 0)
}

// hashRevision is the revision that HashKV names: 3.5 does not say it.
func hashRevision(t *testing.T, client *clientv3.Client, revision int64) int64 {
	if isAtLeast(t, client, "3.6") {
		return revision
	}
	return 0
}

func TestDowngrades(t *testing.T) {
	client, each, _ := cluster(t)
	status, err := client.Status(soon(t), each[0].Endpoints()[0])
	succeeds(t, err)
	var minor int
	_, err = fmt.Sscanf(status.Version, "3.%d.", &minor)
	succeeds(t, err)
	_, err = client.Downgrade(soon(t), clientv3.DowngradeValidate, "3.1.0")
	fails(t, err, rpctypes.ErrInvalidDowngradeTargetVersion)
	valid, err := client.Downgrade(soon(t), clientv3.DowngradeValidate, fmt.Sprintf("3.%d.0", minor-1))
	succeeds(t, err)
	want := fmt.Sprintf("3.%d", minor)
	if minor == 5 {
		want += ".0"
	}
	equal(t, "version of the cluster", valid.Version, want)
	_, err = client.Downgrade(soon(t), clientv3.DowngradeCancel, "")
	if minor == 5 {
		// One that is begun is carried out there, but not answered.
		fails(t, err, rpctypes.ErrNoInflightDowngrade)
		return
	}
	succeeds(t, err)

	// One that is under way, and called off, on a member alone.
	alone := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_AUTH_MEMBER")})
	target := fmt.Sprintf("3.%d.0", minor-1)
	var begun *clientv3.DowngradeResponse
	becomes(t, "the new cluster has a version", func() bool {
		begun, err = alone.Downgrade(soon(t), clientv3.DowngradeEnable, target)
		return !errors.Is(err, rpctypes.ErrClusterVersionUnavailable)
	})
	succeeds(t, err)
	equal(t, "version of the cluster", begun.Version, want)
	_, err = alone.Downgrade(soon(t), clientv3.DowngradeEnable, target)
	fails(t, err, rpctypes.ErrDowngradeInProcess)
	status, err = alone.Status(soon(t), alone.Endpoints()[0])
	succeeds(t, err)
	equal(t, "downgrade under way", status.DowngradeInfo.GetEnabled(), true)
	equal(t, "its target", status.DowngradeInfo.GetTargetVersion(), target)
	_, err = alone.Downgrade(soon(t), clientv3.DowngradeCancel, "")
	succeeds(t, err)
	status, err = alone.Status(soon(t), alone.Endpoints()[0])
	succeeds(t, err)
	equal(t, "downgrade under way", status.DowngradeInfo.GetEnabled(), false)
}
