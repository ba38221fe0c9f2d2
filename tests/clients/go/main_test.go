// Package clients drives etcd's own Go client, and every package that comes with it, against running members.
//
// Where the members are is said by the environment (see ../run). Tests that compare revisions have a member to themselves, since
// they run one after the other; those that wait for time to pass run at once, when the others have ended, and compare none.
package clients

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience is how long anything may take that ought to happen soon.
const patience = 20 * time.Second

func addresses(t *testing.T, variable string) []string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Fatalf("%s is not set: start the tests with tests/clients/run", variable)
	}
	return strings.Split(value, ",")
}

func dial(t *testing.T, config clientv3.Config) *clientv3.Client {
	t.Helper()
	if config.DialTimeout == 0 {
		config.DialTimeout = patience
	}
	config.Logger = zap.NewNop()
	client, err := clientv3.New(config)
	succeeds(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// member returns a client of the member that has no others, and a prefix of keys for this test alone, which are deleted at its end.
func member(t *testing.T) (*clientv3.Client, string) {
	t.Helper()
	client := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_MEMBER")})
	prefix := t.Name() + "/"
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := client.Delete(ctx, prefix, clientv3.WithPrefix())
		succeeds(t, err)
	})
	return client, prefix
}

// cluster returns a client of all three members of the cluster, one for each member, and a prefix of keys for this test alone.
func cluster(t *testing.T) (*clientv3.Client, []*clientv3.Client, string) {
	t.Helper()
	endpoints := addresses(t, "ETCD_CLUSTER")
	var each []*clientv3.Client
	for _, endpoint := range endpoints {
		each = append(each, dial(t, clientv3.Config{Endpoints: []string{endpoint}}))
	}
	return dial(t, clientv3.Config{Endpoints: endpoints}), each, t.Name() + "/"
}

// soon returns a context that ends when patience does.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// isAtLeast tells whether the member stands for this version of etcd or a later one, such as "3.6".
func isAtLeast(t *testing.T, client *clientv3.Client, version string) bool {
	t.Helper()
	status, err := client.Status(soon(t), client.Endpoints()[0])
	succeeds(t, err)
	// One digit each, for as long as there is no 3.10.
	return status.Version[:3] >= version
}

func put(t *testing.T, client clientv3.KV, key, value string, options ...clientv3.OpOption) int64 {
	t.Helper()
	response, err := client.Put(soon(t), key, value, options...)
	succeeds(t, err)
	return response.Header.Revision
}

func get(t *testing.T, client clientv3.KV, key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	response, err := client.Get(soon(t), key, options...)
	succeeds(t, err)
	return response
}

// value returns what is at the key, or "absent".
func value(t *testing.T, client clientv3.KV, key string, options ...clientv3.OpOption) string {
	t.Helper()
	response := get(t, client, key, options...)
	if len(response.Kvs) == 0 {
		return "absent"
	}
	return string(response.Kvs[0].Value)
}

// keys returns the keys of an answer without their prefix, with spaces between.
func keys(response *clientv3.GetResponse, prefix string) string {
	var names []string
	for _, kv := range response.Kvs {
		names = append(names, strings.TrimPrefix(string(kv.Key), prefix))
	}
	return strings.Join(names, " ")
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func holds(t *testing.T, what string, claim bool) {
	t.Helper()
	if !claim {
		t.Fatalf("does not hold: %s", what)
	}
}

func succeeds(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}

// fails compares an error as the client gives it, or by its text where the client does not translate it.
func fails(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) && (err == nil || !strings.HasSuffix(err.Error(), " desc = "+rpctypes.ErrorDesc(want))) {
		t.Fatalf("error: got %v, want %v", err, want)
	}
}

// receive returns what comes next on a channel, which must be open.
func receive[T any](t *testing.T, channel <-chan T) T {
	t.Helper()
	select {
	case next, isOpen := <-channel:
		if !isOpen {
			t.Fatal("the channel is closed")
		}
		return next
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("not reached")
}

// closes waits until a channel is closed, and passes over what comes before.
func closes[T any](t *testing.T, channel <-chan T) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, isOpen := <-channel:
			if !isOpen {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open")
		}
	}
}

// becomes waits until a condition holds that nothing announces.
func becomes(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("does not become true: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
