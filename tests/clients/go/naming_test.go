package clients

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestEndpointsOfAService(t *testing.T) {
	client, prefix := member(t)
	service := prefix + "service"
	manager, err := endpoints.NewManager(client, service)
	succeeds(t, err)
	ctx, cancel := context.WithCancel(soon(t))
	updates, err := manager.NewWatchChannel(ctx)
	succeeds(t, err)
	one := endpoints.Endpoint{Addr: "127.0.0.1:1", Metadata: "first"}
	succeeds(t, manager.AddEndpoint(soon(t), service+"/one", one))
	update := receive(t, updates)
	equal(t, "updates", len(update), 1)
	equal(t, "update", *update[0], endpoints.Update{Op: endpoints.Add, Key: service + "/one", Endpoint: one})

	granted, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	succeeds(t, manager.Update(soon(t), []*endpoints.UpdateWithOpts{
		endpoints.NewAddUpdateOpts(service+"/two", endpoints.Endpoint{Addr: "127.0.0.1:2"}, clientv3.WithLease(granted.ID)),
		endpoints.NewDeleteUpdateOpts(service + "/one"),
	}))
	update = receive(t, updates)
	equal(t, "updates at once", len(update), 2)
	equal(t, "deleted", update[1].Op, endpoints.Delete)
	list, err := manager.List(soon(t))
	succeeds(t, err)
	equal(t, "endpoints", list, endpoints.Key2EndpointMap{service + "/two": {Addr: "127.0.0.1:2"}})
	_, err = client.Revoke(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "gone with its lease", receive(t, updates)[0].Key, service+"/two")
	succeeds(t, manager.AddEndpoint(soon(t), service+"/three", one))
	receive(t, updates)
	succeeds(t, manager.DeleteEndpoint(soon(t), service+"/three"))
	update = receive(t, updates)
	equal(t, "update", *update[0], endpoints.Update{Op: endpoints.Delete, Key: service + "/three"})
	holds(t, "another service's keys are not for this manager", manager.DeleteEndpoint(soon(t), prefix+"other") != nil)
	cancel()
	closes(t, updates)
}

func TestResolverFindsAService(t *testing.T) {
	client, prefix := member(t)
	service := t.Name() + "-kv"
	manager, err := endpoints.NewManager(client, service)
	succeeds(t, err)
	put(t, client, prefix+"key", "value")
	// The service that is looked up is the member itself, and then one of the cluster.
	succeeds(t, manager.AddEndpoint(soon(t), service+"/member", endpoints.Endpoint{Addr: addresses(t, "ETCD_MEMBER")[0]}))
	builder, err := resolver.NewBuilder(client)
	succeeds(t, err)
	connection, err := grpc.NewClient("etcd:///"+service, grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	succeeds(t, err)
	defer connection.Close()
	remote := pb.NewKVClient(connection)
	answer, err := remote.Range(soon(t), &pb.RangeRequest{Key: []byte(prefix + "key")})
	succeeds(t, err)
	equal(t, "value", string(answer.Kvs[0].Value), "value")

	succeeds(t, manager.Update(soon(t), []*endpoints.UpdateWithOpts{
		endpoints.NewAddUpdateOpts(service+"/other", endpoints.Endpoint{Addr: addresses(t, "ETCD_CLUSTER")[0]}),
		endpoints.NewDeleteUpdateOpts(service + "/member"),
	}))
	becomes(t, "the connection follows", func() bool {
		moved, err := remote.Range(soon(t), &pb.RangeRequest{Key: []byte(prefix + "key")}, grpc.WaitForReady(true))
		succeeds(t, err)
		return moved.Header.ClusterId != answer.Header.ClusterId
	})
}

func TestWhatKubernetesAsksFor(t *testing.T) {
	_, prefix := member(t)
	client, err := kubernetes.New(clientv3.Config{Endpoints: addresses(t, "ETCD_MEMBER")})
	succeeds(t, err)
	defer client.Close()
	key := prefix + "a"
	written, err := client.OptimisticPut(soon(t), key, []byte("1"), 0, kubernetes.PutOptions{})
	succeeds(t, err)
	equal(t, "created", written.Succeeded, true)
	lost, err := client.OptimisticPut(soon(t), key, []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	succeeds(t, err)
	equal(t, "created again", lost.Succeeded, false)
	equal(t, "what is there", string(lost.KV.Value), "1")
	updated, err := client.OptimisticPut(soon(t), key, []byte("2"), written.Revision, kubernetes.PutOptions{})
	succeeds(t, err)
	equal(t, "updated", updated.Succeeded, true)
	equal(t, "revision", updated.Revision, written.Revision+1)

	got, err := client.Kubernetes.Get(soon(t), key, kubernetes.GetOptions{Revision: written.Revision})
	succeeds(t, err)
	equal(t, "value before", string(got.KV.Value), "1")
	absent, err := client.Kubernetes.Get(soon(t), prefix+"absent", kubernetes.GetOptions{})
	succeeds(t, err)
	holds(t, "nothing there", absent.KV == nil)
	for _, name := range []string{"b", "c", "d", "e"} {
		put(t, client.KV, prefix+name, name)
	}
	count, err := client.Kubernetes.Count(soon(t), prefix, kubernetes.CountOptions{})
	succeeds(t, err)
	equal(t, "count", count, 5)
	// Page by page, at the revision of the first.
	page, err := client.Kubernetes.List(soon(t), prefix, kubernetes.ListOptions{Limit: 2})
	succeeds(t, err)
	equal(t, "count of the first page", page.Count, 5)
	equal(t, "keys of the first page", len(page.Kvs), 2)
	put(t, client.KV, prefix+"c", "changed meanwhile")
	page, err = client.Kubernetes.List(soon(t), prefix, kubernetes.ListOptions{Limit: 2, Revision: page.Revision, Continue: string(page.Kvs[1].Key) + "\x00"})
	succeeds(t, err)
	equal(t, "keys of the second page", string(page.Kvs[0].Key)+" "+string(page.Kvs[1].Key), prefix+"c "+prefix+"d")
	equal(t, "value at that revision", string(page.Kvs[0].Value), "c")

	kept, err := client.OptimisticDelete(soon(t), key, written.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
	succeeds(t, err)
	equal(t, "deleted at an old revision", kept.Succeeded, false)
	equal(t, "what is there", kept.KV.ModRevision, updated.Revision)
	gone, err := client.OptimisticDelete(soon(t), key, updated.Revision, kubernetes.DeleteOptions{})
	succeeds(t, err)
	equal(t, "deleted", gone.Succeeded, true)
}
