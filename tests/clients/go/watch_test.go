package clients

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watch begins to watch, and returns once the member has answered so: what is written from then on is seen.
func watch(t *testing.T, client clientv3.Watcher, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	t.Helper()
	channel := client.Watch(soon(t), key, append(options, clientv3.WithCreatedNotify())...)
	created := receive(t, channel)
	succeeds(t, created.Err())
	equal(t, "created", created.Created, true)
	equal(t, "events in the answer", len(created.Events), 0)
	return channel
}

// events returns the next n events as "put key=value@revision (was value)" with the prefix cut off.
func events(t *testing.T, channel clientv3.WatchChan, n int, prefix string, base int64) string {
	t.Helper()
	var all []string
	for len(all) < n {
		response := receive(t, channel)
		succeeds(t, response.Err())
		for _, event := range response.Events {
			text := fmt.Sprintf("%s %s", strings.ToLower(event.Type.String()), strings.TrimPrefix(string(event.Kv.Key), prefix))
			if event.Type == clientv3.EventTypePut {
				text += "=" + string(event.Kv.Value)
			}
			text += fmt.Sprintf("@%d", event.Kv.ModRevision-base)
			if event.PrevKv != nil {
				text += fmt.Sprintf(" (was %s)", event.PrevKv.Value)
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

func TestWatchSeesWhatHappens(t *testing.T) {
	client, prefix := member(t)
	channel := watch(t, client, prefix+"a")
	others := watch(t, client, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	some := watch(t, client, prefix+"a", clientv3.WithRange(prefix+"b"))
	base := put(t, client, prefix+"a", "1")
	put(t, client, prefix+"b", "2")
	put(t, client, prefix+"a", "3")
	_, err := client.Delete(soon(t), prefix, clientv3.WithPrefix())
	succeeds(t, err)
	equal(t, "one key", events(t, channel, 3, prefix, base), "put a=1@0, put a=3@2, delete a@3")
	equal(t, "prefix", events(t, others, 5, prefix, base), "put a=1@0, put b=2@1, put a=3@2 (was 1), delete a@3 (was 3), delete b@3 (was 2)")
	equal(t, "range", events(t, some, 3, prefix, base), "put a=1@0, put a=3@2, delete a@3")

	event := receive(t, client.Watch(soon(t), prefix+"a", clientv3.WithRev(base+2))).Events[0]
	equal(t, "create revision", event.Kv.CreateRevision, base)
	equal(t, "version", event.Kv.Version, 2)
	equal(t, "a modification", event.IsModify(), true)
	equal(t, "a creation", event.IsCreate(), false)
}

func TestWatchOfThePastAndTheFuture(t *testing.T) {
	client, prefix := member(t)
	base := put(t, client, prefix+"a", "0")
	for i := 1; i < 5; i++ {
		put(t, client, prefix+"a", fmt.Sprint(i))
	}
	equal(t, "from the middle", events(t, client.Watch(soon(t), prefix+"a", clientv3.WithRev(base+3)), 2, prefix, base), "put a=3@3, put a=4@4")
	future := watch(t, client, prefix+"a", clientv3.WithRev(base+7))
	for i := 5; i < 9; i++ {
		put(t, client, prefix+"a", fmt.Sprint(i))
	}
	equal(t, "from the future", events(t, future, 2, prefix, base), "put a=7@7, put a=8@8")
	all := events(t, client.Watch(soon(t), "\x00", clientv3.WithFromKey(), clientv3.WithRev(base)), 9, prefix, base)
	holds(t, "all keys from the beginning: "+all, strings.HasPrefix(all, "put a=0@0, put a=1@1,") && strings.HasSuffix(all, "put a=8@8"))
}

func TestWatchFilters(t *testing.T) {
	client, prefix := member(t)
	puts := watch(t, client, prefix, clientv3.WithPrefix(), clientv3.WithFilterDelete())
	deletes := watch(t, client, prefix, clientv3.WithPrefix(), clientv3.WithFilterPut())
	base := put(t, client, prefix+"a", "1")
	_, err := client.Delete(soon(t), prefix+"a")
	succeeds(t, err)
	put(t, client, prefix+"a", "2")
	_, err = client.Delete(soon(t), prefix+"a")
	succeeds(t, err)
	equal(t, "puts", events(t, puts, 2, prefix, base), "put a=1@0, put a=2@2")
	equal(t, "deletes", events(t, deletes, 2, prefix, base), "delete a@1, delete a@3")
}

func TestWatchProgressOnRequest(t *testing.T) {
	client, prefix := member(t)
	ctx := soon(t)
	channel := client.Watch(ctx, prefix+"a", clientv3.WithCreatedNotify())
	receive(t, channel)
	base := put(t, client, prefix+"a", "1")
	equal(t, "event", events(t, channel, 1, prefix, base), "put a=1@0")
	last := put(t, client, prefix+"unwatched", "2")
	// The answer is of the member's revision, and comes as soon as every watch of the stream has got there.
	for {
		succeeds(t, client.RequestProgress(ctx))
		response := receive(t, channel)
		equal(t, "progress", response.IsProgressNotify(), true)
		if response.Header.Revision >= last {
			equal(t, "revision", response.Header.Revision, last)
			return
		}
	}
}

func TestWatchProgressOfItself(t *testing.T) {
	t.Parallel()
	client, prefix := member(t)
	revision := put(t, client, prefix+"unwatched", "1")
	// The members are told to report each second.
	channel := watch(t, client, prefix+"a", clientv3.WithProgressNotify())
	for range 2 {
		response := receive(t, channel)
		equal(t, "progress", response.IsProgressNotify(), true)
		holds(t, "progress has come as far as was written before", response.Header.Revision >= revision)
	}
}

func TestWatchOfWhatIsCompacted(t *testing.T) {
	client, prefix := member(t)
	base := put(t, client, prefix+"a", "1")
	put(t, client, prefix+"a", "2")
	last := put(t, client, prefix+"a", "3")
	_, err := client.Compact(soon(t), last)
	succeeds(t, err)
	channel := client.Watch(soon(t), prefix+"a", clientv3.WithRev(base))
	response := receive(t, channel)
	equal(t, "canceled", response.Canceled, true)
	equal(t, "compacted at", response.CompactRevision, last)
	fails(t, response.Err(), rpctypes.ErrCompacted)
	closes(t, channel)
	equal(t, "from the compacted revision", events(t, client.Watch(soon(t), prefix+"a", clientv3.WithRev(last)), 1, prefix, base), "put a=3@2")
}

func TestWatchesEnd(t *testing.T) {
	client, prefix := member(t)
	ctx, cancel := context.WithCancel(soon(t))
	ending := client.Watch(ctx, prefix+"a", clientv3.WithCreatedNotify())
	staying := watch(t, client, prefix+"a")
	receive(t, ending)
	cancel()
	closes(t, ending)
	base := put(t, client, prefix+"a", "1")
	equal(t, "the other watch of the stream", events(t, staying, 1, prefix, base), "put a=1@0")

	other := clientv3.NewWatcher(client)
	channel := watch(t, other, prefix+"a")
	succeeds(t, other.Close())
	closes(t, channel)
	_, isOpen := <-other.Watch(soon(t), prefix+"a")
	equal(t, "open after the watcher was closed", isOpen, false)
}

func TestManyWatches(t *testing.T) {
	client, prefix := member(t)
	const count = 300
	var channels []clientv3.WatchChan
	for i := range count {
		// Some on a stream of their own: the context's metadata tells.
		channels = append(channels, client.Watch(clientv3.WithRequireLeader(soon(t)), fmt.Sprintf("%s%d", prefix, i%10), clientv3.WithCreatedNotify()))
	}
	for _, channel := range channels {
		receive(t, channel)
	}
	base := put(t, client, prefix+"0", "1")
	for i := 1; i < 10; i++ {
		put(t, client, fmt.Sprint(prefix, i), "1")
	}
	for i, channel := range channels {
		equal(t, "event", events(t, channel, 1, prefix, base), fmt.Sprintf("put %d=1@%d", i%10, i%10))
	}
}

func TestWatchInFragments(t *testing.T) {
	client, prefix := member(t)
	const count = 5
	for i := range count {
		put(t, client, fmt.Sprint(prefix, i), strings.Repeat("x", 1024*1024))
	}
	whole := watch(t, client, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	pieced := watch(t, client, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment())
	stream, err := pb.NewWatchClient(client.ActiveConnection()).Watch(soon(t))
	succeeds(t, err)
	succeeds(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), PrevKv: true, Fragment: true,
	}}}))
	created, err := stream.Recv()
	succeeds(t, err)
	equal(t, "created", created.Created, true)

	// One revision is more than one message may be. The client puts the pieces together.
	deleted, err := client.Delete(soon(t), prefix, clientv3.WithPrefix())
	succeeds(t, err)
	equal(t, "events at once", len(receive(t, whole).Events), count)
	equal(t, "events of all pieces", len(receive(t, pieced).Events), count)
	pieces, seen := 0, 0
	for seen < count {
		piece, err := stream.Recv()
		succeeds(t, err)
		pieces++
		for _, event := range piece.Events {
			equal(t, "key", string(event.Kv.Key), fmt.Sprint(prefix, seen))
			equal(t, "size of the value before", len(event.PrevKv.Value), 1024*1024)
			equal(t, "mod revision", event.Kv.ModRevision, deleted.Header.Revision)
			seen++
		}
		equal(t, "marked as a fragment", piece.Fragment, seen < count)
	}
	holds(t, fmt.Sprintf("5 MB come in several pieces, not %d", pieces), pieces > 1)
}
