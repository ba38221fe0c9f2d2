package clients

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

func TestAlarms(t *testing.T) {
	client, prefix := member(t)
	key := prefix + "key"
	put(t, client, key, "before")
	list, err := client.AlarmList(soon(t))
	succeeds(t, err)
	equal(t, "alarms", len(list.Alarms), 0)
	id := list.Header.MemberId
	// The client can list and disarm; members raise them, and so does who asks for it.
	raised, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(soon(t),
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
	succeeds(t, err)
	equal(t, "raised", raised.Alarms[0].Alarm, pb.AlarmType_NOSPACE)

	_, err = client.Put(soon(t), key, "during")
	fails(t, err, rpctypes.ErrNoSpace)
	_, err = client.Txn(soon(t)).Then(clientv3.OpPut(key, "during")).Commit()
	fails(t, err, rpctypes.ErrNoSpace)
	_, err = client.Grant(soon(t), 600)
	fails(t, err, rpctypes.ErrNoSpace)
	equal(t, "value", value(t, client, key), "before")
	status, err := client.Status(soon(t), client.Endpoints()[0])
	succeeds(t, err)
	holds(t, fmt.Sprintf("the status tells: %v", status.Errors), len(status.Errors) == 1 && strings.Contains(status.Errors[0], "NOSPACE"))
	list, err = client.AlarmList(soon(t))
	succeeds(t, err)
	equal(t, "alarms", len(list.Alarms), 1)
	equal(t, "member", list.Alarms[0].MemberID, id)
	_, err = client.Delete(soon(t), key)
	succeeds(t, err)

	disarmed, err := client.AlarmDisarm(soon(t), &clientv3.AlarmMember{})
	succeeds(t, err)
	equal(t, "disarmed", len(disarmed.Alarms), 1)
	put(t, client, key, "after")
	list, err = client.AlarmList(soon(t))
	succeeds(t, err)
	equal(t, "alarms", len(list.Alarms), 0)
}

func TestDefragmentationGivesSpaceBack(t *testing.T) {
	client, prefix := member(t)
	big := strings.Repeat("x", 1024*1024)
	for i := range 10 {
		put(t, client, fmt.Sprint(prefix, i), big)
	}
	put(t, client, prefix+"kept", "value")
	response, err := client.Delete(soon(t), prefix, clientv3.WithRange(prefix+"a"))
	succeeds(t, err)
	equal(t, "deleted", response.Deleted, 10)
	_, err = client.Compact(soon(t), response.Header.Revision, clientv3.WithCompactPhysical())
	succeeds(t, err)
	endpoint := client.Endpoints()[0]
	before, err := client.Status(soon(t), endpoint)
	succeeds(t, err)
	_, err = client.Defragment(soon(t), endpoint)
	succeeds(t, err)
	after, err := client.Status(soon(t), endpoint)
	succeeds(t, err)
	holds(t, fmt.Sprintf("10 MB are given back: %d before, %d after", before.DbSize, after.DbSize), before.DbSize-after.DbSize > 8*1024*1024)
	equal(t, "value", value(t, client, prefix+"kept"), "value")
	put(t, client, prefix+"new", "value")
}

func TestSnapshots(t *testing.T) {
	client, prefix := member(t)
	put(t, client, prefix+"key", "a value that is looked for")
	reader, err := client.Snapshot(soon(t))
	succeeds(t, err)
	checkSnapshot(t, reader)
	with, err := client.SnapshotWithVersion(soon(t))
	succeeds(t, err)
	checkSnapshot(t, with.Snapshot)
	want := ""
	if isAtLeast(t, client, "3.6") {
		status, err := client.Status(soon(t), client.Endpoints()[0])
		succeeds(t, err)
		want = status.StorageVersion
	}
	equal(t, "version of the snapshot", with.Version, want)

	path := filepath.Join(t.TempDir(), "saved.db")
	version, err := snapshot.SaveWithVersion(soon(t), zap.NewNop(), clientv3.Config{Endpoints: client.Endpoints()}, path)
	succeeds(t, err)
	equal(t, "version of the saved snapshot", version, want)
	saved, err := os.Open(path)
	succeeds(t, err)
	checkSnapshot(t, saved)
}

// checkSnapshot reads a snapshot: a database with the key that was put before, and the sum of it behind.
func checkSnapshot(t *testing.T, reader io.ReadCloser) {
	t.Helper()
	content, err := io.ReadAll(reader)
	succeeds(t, err)
	succeeds(t, reader.Close())
	equal(t, "size beyond whole pages", len(content)%4096, sha256.Size)
	database, sum := content[:len(content)-sha256.Size], content[len(content)-sha256.Size:]
	computed := sha256.Sum256(database)
	holds(t, "the sum is right", bytes.Equal(computed[:], sum))
	equal(t, "magic of the first page", database[16:20], []byte{0xed, 0xda, 0x0c, 0xed})
	holds(t, "the key is in it", bytes.Contains(database, []byte("a value that is looked for")))
}
