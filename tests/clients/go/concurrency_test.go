package clients

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"
)

func session(t *testing.T, client *clientv3.Client, options ...concurrency.SessionOption) *concurrency.Session {
	t.Helper()
	session, err := concurrency.NewSession(client, options...)
	succeeds(t, err)
	t.Cleanup(func() { session.Close() })
	return session
}

func TestSessions(t *testing.T) {
	client, _ := member(t)
	one := session(t, client, concurrency.WithTTL(600))
	left, err := client.TimeToLive(soon(t), one.Lease())
	succeeds(t, err)
	equal(t, "time to live", left.GrantedTTL, 600)
	succeeds(t, one.Close())
	receiveEnd(t, one.Done())
	left, err = client.TimeToLive(soon(t), one.Lease())
	succeeds(t, err)
	equal(t, "time left after the session was closed", left.TTL, -1)

	// An orphan's lease lives on, and another session can go on with it.
	orphan := session(t, client)
	orphan.Orphan()
	receiveEnd(t, orphan.Done())
	heir := session(t, client, concurrency.WithLease(orphan.Lease()))
	equal(t, "lease", heir.Lease(), orphan.Lease())
	left, err = client.TimeToLive(soon(t), heir.Lease())
	succeeds(t, err)
	holds(t, "the lease lives on", left.TTL > 0)

	// A session ends with its lease.
	_, err = client.Revoke(soon(t), heir.Lease())
	succeeds(t, err)
	receiveEnd(t, heir.Done())
	holds(t, "its context has ended", heir.Ctx().Err() != nil)
	_, err = client.KeepAliveOnce(soon(t), heir.Lease())
	fails(t, err, rpctypes.ErrLeaseNotFound)
}

// receiveEnd waits until a channel is closed.
func receiveEnd(t *testing.T, done <-chan struct{}) {
	t.Helper()
	closes(t, done)
}

func TestMutexes(t *testing.T) {
	client, prefix := member(t)
	// The third's client tells when it begins to watch the one before it: its own key has been answered then.
	watches := make(chan bool, 16)
	tells := func(ctx context.Context, stream *grpc.StreamDesc, connection *grpc.ClientConn, method string, begin grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		if method == pb.Watch_Watch_FullMethodName {
			watches <- true
		}
		return begin(ctx, stream, connection, method, options...)
	}
	telling := dial(t, clientv3.Config{Endpoints: client.Endpoints(), DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(tells)}})
	first, second, third := session(t, client), session(t, client), session(t, telling)
	one, two := concurrency.NewMutex(first, prefix), concurrency.NewMutex(second, prefix)
	succeeds(t, one.Lock(soon(t)))
	equal(t, "key", one.Key(), fmt.Sprintf("%s/%x", prefix, first.Lease()))
	equal(t, "revision of the key", get(t, client, one.Key()).Kvs[0].CreateRevision, one.Header().Revision)
	fails(t, two.TryLock(soon(t)), concurrency.ErrLocked)
	equal(t, "keys while one has it", get(t, client, prefix, clientv3.WithPrefix()).Count, 1)

	// Who owns the mutex can make writes depend on it.
	guarded, err := client.Txn(soon(t)).If(one.IsOwner()).Then(clientv3.OpPut(prefix+"guarded", "one")).Commit()
	succeeds(t, err)
	equal(t, "the owner writes", guarded.Succeeded, true)

	// Who waits gets it in turn.
	got := make(chan error, 2)
	waiting := concurrency.NewMutex(third, prefix)
	go func() { got <- two.Lock(context.Background()) }()
	becomes(t, "the second waits", func() bool { return get(t, client, prefix+"/", clientv3.WithPrefix()).Count == 2 })
	ctx, cancel := context.WithCancel(context.Background())
	given := make(chan error, 1)
	go func() { given <- waiting.Lock(ctx) }()
	receive(t, watches)
	equal(t, "keys while two wait", get(t, client, prefix+"/", clientv3.WithPrefix()).Count, 3)
	cancel()
	fails(t, receive(t, given), context.Canceled)
	becomes(t, "who gave up has left", func() bool { return get(t, client, prefix+"/", clientv3.WithPrefix()).Count == 2 })
	succeeds(t, one.Unlock(soon(t)))
	succeeds(t, receive(t, got))
	fails(t, one.Unlock(soon(t)), concurrency.ErrLockReleased)
	guarded, err = client.Txn(soon(t)).If(one.IsOwner()).Then(clientv3.OpPut(prefix+"guarded", "one")).Commit()
	succeeds(t, err)
	equal(t, "who was the owner does not write", guarded.Succeeded, false)

	// A session that ends gives its mutexes back, and who waits under an ended session does not get them.
	go func() { got <- waiting.Lock(context.Background()) }()
	becomes(t, "the third waits", func() bool { return get(t, client, prefix+"/", clientv3.WithPrefix()).Count == 2 })
	succeeds(t, second.Close())
	succeeds(t, receive(t, got))
	late := concurrency.NewMutex(first, prefix)
	go func() { got <- late.Lock(context.Background()) }()
	becomes(t, "the first waits", func() bool { return get(t, client, prefix+"/", clientv3.WithPrefix()).Count == 2 })
	_, err = client.Revoke(soon(t), first.Lease())
	succeeds(t, err)
	succeeds(t, waiting.Unlock(soon(t)))
	fails(t, receive(t, got), concurrency.ErrSessionExpired)
}

func TestLockersExclude(t *testing.T) {
	client, prefix := member(t)
	var inside, entered int
	var all sync.WaitGroup
	for range 4 {
		locker := concurrency.NewLocker(session(t, client), prefix+"lock")
		all.Go(func() {
			for range 5 {
				locker.Lock()
				// Not atomic: the lock guards both, or they come out wrong.
				inside++
				if inside == 1 {
					entered++
				}
				inside--
				locker.Unlock()
			}
		})
	}
	all.Wait()
	equal(t, "entered alone", entered, 20)
}

func TestElections(t *testing.T) {
	client, prefix := member(t)
	first, second := session(t, client), session(t, client)
	one, two := concurrency.NewElection(first, prefix), concurrency.NewElection(second, prefix)
	_, err := one.Leader(soon(t))
	fails(t, err, concurrency.ErrElectionNoLeader)
	fails(t, one.Proclaim(soon(t), "x"), concurrency.ErrElectionNotLeader)
	succeeds(t, one.Campaign(soon(t), "one"))
	equal(t, "key", one.Key(), fmt.Sprintf("%s/%x", prefix, first.Lease()))
	equal(t, "revision of the election", one.Header().Revision, one.Rev())
	told, err := two.Leader(soon(t))
	succeeds(t, err)
	equal(t, "leader", string(told.Kvs[0].Value), "one")
	equal(t, "revision", told.Kvs[0].CreateRevision, one.Rev())

	ctx, cancel := context.WithCancel(soon(t))
	observed := two.Observe(ctx)
	equal(t, "observed", string(receive(t, observed).Kvs[0].Value), "one")
	succeeds(t, one.Proclaim(soon(t), "one again"))
	equal(t, "observed", string(receive(t, observed).Kvs[0].Value), "one again")
	won := make(chan error, 1)
	go func() { won <- two.Campaign(context.Background(), "two") }()
	becomes(t, "the second stands", func() bool { return get(t, client, prefix, clientv3.WithPrefix()).Count == 2 })

	resumed := concurrency.ResumeElection(first, prefix, one.Key(), one.Rev())
	succeeds(t, resumed.Proclaim(soon(t), "resumed"))
	equal(t, "observed", string(receive(t, observed).Kvs[0].Value), "resumed")
	succeeds(t, resumed.Resign(soon(t)))
	succeeds(t, receive(t, won))
	equal(t, "observed", string(receive(t, observed).Kvs[0].Value), "two")
	fails(t, one.Proclaim(soon(t), "x"), concurrency.ErrElectionNotLeader)

	// A leader whose session ends leads no more.
	go func() { won <- one.Campaign(context.Background(), "one at last") }()
	becomes(t, "the first stands", func() bool { return get(t, client, prefix, clientv3.WithPrefix()).Count == 2 })
	succeeds(t, second.Close())
	succeeds(t, receive(t, won))
	equal(t, "observed", string(receive(t, observed).Kvs[0].Value), "one at last")
	cancel()
	closes(t, observed)
}

var isolations = map[string]concurrency.Isolation{
	"serializable snapshot": concurrency.SerializableSnapshot,
	"serializable":          concurrency.Serializable,
	"repeatable reads":      concurrency.RepeatableReads,
	"read committed":        concurrency.ReadCommitted,
}

func TestTransactionalMemory(t *testing.T) {
	for name, isolation := range isolations {
		t.Run(name, func(t *testing.T) {
			client, prefix := member(t)
			from, to := prefix+"from", prefix+"to"
			put(t, client, from, "10")
			// Somebody writes between the read and the commit of the first attempt.
			attempts := 0
			response, err := concurrency.NewSTM(client, func(memory concurrency.STM) error {
				attempts++
				before := memory.Get(from)
				if attempts == 1 {
					put(t, client, from, "7")
				}
				if isolation != concurrency.ReadCommitted {
					equal(t, "read again", memory.Get(from), before)
				}
				memory.Put(to, before)
				equal(t, "own write", memory.Get(to), before)
				memory.Del(from)
				equal(t, "own deletion", memory.Get(from), "")
				return nil
			}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(soon(t)))
			succeeds(t, err)
			equal(t, "committed", response.Succeeded, true)
			// Only who reads what is committed does not care.
			wantAttempts, wantValue := 2, "7"
			if isolation == concurrency.ReadCommitted {
				wantAttempts, wantValue = 1, "10"
			}
			equal(t, "attempts", attempts, wantAttempts)
			equal(t, "moved", value(t, client, to), wantValue)
			equal(t, "left", value(t, client, from), "absent")
		})
	}
}

func TestTransactionalMemoryKeepsSums(t *testing.T) {
	for _, name := range []string{"serializable snapshot", "serializable", "repeatable reads"} {
		t.Run(name, func(t *testing.T) {
			client, prefix := member(t)
			const accounts, transfers, each = 4, 6, 15
			account := func(i int) string { return fmt.Sprintf("%s%d", prefix, i%accounts) }
			for i := range accounts {
				put(t, client, account(i), "100")
			}
			var all sync.WaitGroup
			for worker := range transfers {
				all.Go(func() {
					for i := range each {
						from, to := account(worker+i), account(worker+2*i+1)
						if from == to {
							continue
						}
						_, err := concurrency.NewSTM(client, func(memory concurrency.STM) error {
							has, _ := strconv.Atoi(memory.Get(from))
							gets, _ := strconv.Atoi(memory.Get(to))
							memory.Put(from, strconv.Itoa(has-1))
							memory.Put(to, strconv.Itoa(gets+1))
							return nil
						}, concurrency.WithIsolation(isolations[name]), concurrency.WithPrefetch(from, to))
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			sum := 0
			for i := range accounts {
				has, err := strconv.Atoi(value(t, client, account(i)))
				succeeds(t, err)
				sum += has
			}
			equal(t, "sum", sum, 100*accounts)
		})
	}
}

// What the isolations are called where each has a function of its own.
func TestTransactionalMemoryByName(t *testing.T) {
	client, prefix := member(t)
	begins := []func(context.Context, *clientv3.Client, func(concurrency.STM) error) (*clientv3.TxnResponse, error){
		concurrency.NewSTMRepeatable, concurrency.NewSTMSerializable, concurrency.NewSTMReadCommitted,
	}
	for i, begin := range begins {
		key := fmt.Sprint(prefix, i)
		put(t, client, key, "1")
		attempts := 0
		response, err := begin(soon(t), client, func(memory concurrency.STM) error {
			attempts++
			seen := memory.Get(key)
			if attempts == 1 {
				put(t, client, key, "2")
			}
			memory.Put(key+"/copy", seen)
			return nil
		})
		succeeds(t, err)
		equal(t, "committed", response.Succeeded, true)
		want := []string{"2", "2", "1"}[i]
		equal(t, "copied", value(t, client, key+"/copy"), want)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := concurrency.NewSTMRepeatable(ended, client, func(memory concurrency.STM) error {
		memory.Put(prefix+"late", memory.Get(prefix+"0"))
		return nil
	})
	fails(t, err, context.Canceled)
	equal(t, "value", value(t, client, prefix+"late"), "absent")
}

func TestTransactionalMemoryGivesUp(t *testing.T) {
	client, prefix := member(t)
	reason := fmt.Errorf("not today")
	_, err := concurrency.NewSTM(client, func(memory concurrency.STM) error {
		memory.Put(prefix+"key", "value")
		return reason
	})
	fails(t, err, reason)
	equal(t, "value", value(t, client, prefix+"key"), "absent")
	_, err = concurrency.NewSTM(client, func(memory concurrency.STM) error {
		memory.Get("")
		return nil
	})
	fails(t, err, rpctypes.ErrEmptyKey)
	revision := put(t, client, prefix+"key", "value")
	_, err = concurrency.NewSTM(client, func(memory concurrency.STM) error {
		equal(t, "revision of a key", memory.Rev(prefix+"key"), revision)
		equal(t, "revision of an absent key", memory.Rev(prefix+"absent"), 0)
		return nil
	})
	succeeds(t, err)
}
