package clients

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
)

// begin calls what may wait, and returns where its outcome comes.
func begin(call func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- call() }()
	return ended
}

// waits tells that nothing came although a member had answered a later request.
func waits[T any](t *testing.T, what string, outcome <-chan T) {
	t.Helper()
	select {
	case early := <-outcome:
		t.Fatalf("%s: ended early with %v", what, early)
	default:
	}
}

func TestBarriers(t *testing.T) {
	client, prefix := member(t)
	barrier := recipe.NewBarrier(client, prefix+"barrier")
	succeeds(t, barrier.Wait())
	succeeds(t, barrier.Hold())
	equal(t, "held", get(t, client, prefix+"barrier").Count, 1)
	fails(t, recipe.NewBarrier(client, prefix+"barrier").Hold(), recipe.ErrKeyExists)
	first, second := begin(barrier.Wait), begin(recipe.NewBarrier(client, prefix+"barrier").Wait)
	put(t, client, prefix+"other", "value")
	waits(t, "a barrier that is held", first)
	waits(t, "a barrier that is held", second)
	succeeds(t, barrier.Release())
	succeeds(t, receive(t, first))
	succeeds(t, receive(t, second))
	succeeds(t, barrier.Wait())
}

func TestDoubleBarriers(t *testing.T) {
	client, prefix := member(t)
	const count = 3
	var barriers []*recipe.DoubleBarrier
	var entered, left []<-chan error
	waiters := func(n int64) func() bool {
		return func() bool { return get(t, client, prefix+"double/waiters", clientv3.WithPrefix()).Count == n }
	}
	for range count {
		barriers = append(barriers, recipe.NewDoubleBarrier(session(t, client), prefix+"double", count))
	}
	for i, barrier := range barriers {
		for _, early := range entered {
			waits(t, "nobody is in before all are there", early)
		}
		entered = append(entered, begin(barrier.Enter))
		becomes(t, "one more is there", waiters(int64(i+1)))
	}
	for _, outcome := range entered {
		succeeds(t, receive(t, outcome))
	}
	fails(t, recipe.NewDoubleBarrier(session(t, client), prefix+"double", count).Enter(), recipe.ErrTooManyClients)
	for _, barrier := range barriers {
		for _, early := range left {
			waits(t, "nobody is out before all leave", early)
		}
		left = append(left, begin(barrier.Leave))
	}
	for _, outcome := range left {
		succeeds(t, receive(t, outcome))
	}
	equal(t, "keys", get(t, client, prefix+"double", clientv3.WithPrefix()).Count, 0)
}

func TestQueues(t *testing.T) {
	client, prefix := member(t)
	queue := recipe.NewQueue(client, prefix+"queue")
	ranked := recipe.NewPriorityQueue(client, prefix+"ranked")
	t.Cleanup(func() { client.Delete(soon(t), "__"+prefix, clientv3.WithPrefix()) })
	for i := range 5 {
		succeeds(t, queue.Enqueue(fmt.Sprint(i)))
		succeeds(t, ranked.Enqueue(fmt.Sprint(i), uint16(i*3%5)))
	}
	// In turn; and by rank: 0, 3, 1, 4, 2.
	for i, want := range []string{"0", "2", "4", "1", "3"} {
		got, err := queue.Dequeue()
		succeeds(t, err)
		equal(t, "next", got, fmt.Sprint(i))
		got, err = ranked.Dequeue()
		succeeds(t, err)
		equal(t, "next by rank", got, want)
	}
	equal(t, "left", get(t, client, prefix, clientv3.WithPrefix()).Count, 0)

	// Who finds nothing waits, and each value is for one.
	const takers, values = 4, 40
	for name, each := range map[string]struct {
		put  func(string) error
		take func() (string, error)
	}{
		"queue":  {queue.Enqueue, queue.Dequeue},
		"ranked": {func(value string) error { return ranked.Enqueue(value, 7) }, ranked.Dequeue},
	} {
		taken := make(chan string, values)
		for range takers {
			go func() {
				for range values / takers {
					value, err := each.take()
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
					taken <- value
				}
			}()
		}
		seen := map[string]bool{}
		for i := range values {
			succeeds(t, each.put(fmt.Sprint(i)))
		}
		for range values {
			seen[receive(t, taken)] = true
		}
		equal(t, "values of "+name, len(seen), values)
	}
}

func TestReadersAndAWriter(t *testing.T) {
	client, prefix := member(t)
	lock := func() *recipe.RWMutex { return recipe.NewRWMutex(session(t, client), prefix+"lock") }
	keys := func(n int64) func() bool {
		return func() bool { return get(t, client, prefix+"lock/", clientv3.WithPrefix()).Count == n }
	}
	one, two, writer, late := lock(), lock(), lock(), lock()
	succeeds(t, one.RLock())
	succeeds(t, two.RLock())
	written := begin(writer.Lock)
	becomes(t, "the writer waits", keys(3))
	// Who comes after a writer waits for it.
	read := begin(late.RLock)
	becomes(t, "the late reader waits", keys(4))
	succeeds(t, one.RUnlock())
	becomes(t, "one reader has gone", keys(3))
	waits(t, "a writer beside a reader", written)
	succeeds(t, two.RUnlock())
	succeeds(t, receive(t, written))
	waits(t, "a reader beside a writer", read)
	succeeds(t, writer.Unlock())
	succeeds(t, receive(t, read))
	succeeds(t, late.RUnlock())
	equal(t, "keys", get(t, client, prefix, clientv3.WithPrefix()).Count, 0)
}

func TestEventsInOrder(t *testing.T) {
	client, prefix := member(t)
	base := put(t, client, prefix+"a", "1")
	_, err := client.Delete(soon(t), prefix+"a")
	succeeds(t, err)
	put(t, client, prefix+"a", "2")
	put(t, client, prefix+"ab", "3")
	event, err := recipe.WaitEvents(client, prefix+"a", base, []mvccpb.Event_EventType{mvccpb.Event_DELETE, mvccpb.Event_PUT})
	succeeds(t, err)
	equal(t, "value", string(event.Kv.Value), "2")
	event, err = recipe.WaitPrefixEvents(client, prefix+"a", base+2, []mvccpb.Event_EventType{mvccpb.Event_PUT, mvccpb.Event_PUT})
	succeeds(t, err)
	equal(t, "value", string(event.Kv.Value), "3")
}
