package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestClientsFromURLs(t *testing.T) {
	_, prefix := member(t)
	_, err := clientv3.New(clientv3.Config{})
	fails(t, err, clientv3.ErrNoAvailableEndpoints)
	_, err = clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}, Token: "x", Username: "y", Password: "z"})
	fails(t, err, clientv3.ErrMutuallyExclusiveCfg)
	client, err := clientv3.NewFromURL("http://" + addresses(t, "ETCD_MEMBER")[0])
	succeeds(t, err)
	client = client.WithLogger(zap.NewNop())
	put(t, client, prefix+"key", "value")
	equal(t, "logger", client.GetLogger().Level(), zap.NewNop().Level())
	succeeds(t, client.Close())
	holds(t, "its context has ended", client.Ctx().Err() != nil)
	hasty := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_MEMBER"), MaxUnaryRetries: 1})
	equal(t, "value", value(t, hasty, prefix+"key"), "value")
	succeeds(t, hasty.Close())
	_, err = hasty.Get(soon(t), prefix+"key")
	holds(t, fmt.Sprintf("a client that was closed asks nobody: %v", err), clientv3.IsConnCanceled(err))

	var urls []string
	for _, address := range addresses(t, "ETCD_CLUSTER") {
		urls = append(urls, "http://"+address)
	}
	client, err = clientv3.NewFromURLs(urls)
	succeeds(t, err)
	client = client.WithLogger(zap.NewNop())
	defer client.Close()
	// Requests go round.
	members := map[uint64]bool{}
	becomes(t, "all members have answered", func() bool {
		members[get(t, client, prefix).Header.MemberId] = true
		return len(members) == len(urls)
	})
	// A connection of its own to one of them alone.
	connection, err := client.Dial(urls[1])
	succeeds(t, err)
	defer connection.Close()
	var first uint64
	for i := range 6 {
		answer, err := pb.NewKVClient(connection).Range(soon(t), &pb.RangeRequest{Key: []byte(prefix)})
		succeeds(t, err)
		if i == 0 {
			first = answer.Header.MemberId
		}
		equal(t, "who answers", answer.Header.MemberId, first)
	}
}

func TestEndpointsFollowTheCluster(t *testing.T) {
	_, _, prefix := cluster(t)
	all := addresses(t, "ETCD_CLUSTER")
	client := dial(t, clientv3.Config{Endpoints: all[:1], AutoSyncInterval: 20 * time.Millisecond})
	becomes(t, "the client has learned the others", func() bool { return len(client.Endpoints()) == 3 })
	var want []string
	for _, address := range all {
		want = append(want, "http://"+address)
	}
	equal(t, "endpoints", slices.Sorted(slices.Values(client.Endpoints())), slices.Sorted(slices.Values(want)))
	put(t, client, prefix+"key", "value")
}

// A connection without requests stays, when the client asks now and then whether the member is there.
func TestQuietConnectionsStay(t *testing.T) {
	t.Parallel()
	const quiet = 11500 * time.Millisecond
	config := clientv3.Config{
		Endpoints: addresses(t, "ETCD_MEMBER"),
		// The shortest there is. It is asked once in the time above; without an answer the connection would end a second later.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: time.Second,
		PermitWithoutStream:  true,
	}
	idle := dial(t, config)
	get(t, idle, t.Name())
	watching := dial(t, config)
	channel := watch(t, watching, t.Name())
	ctx, cancel := context.WithTimeout(context.Background(), quiet)
	defer cancel()
	holds(t, "the connection is ready", idle.ActiveConnection().GetState() == connectivity.Ready)
	changed := make(chan bool, 1)
	go func() { changed <- watching.ActiveConnection().WaitForStateChange(ctx, connectivity.Ready) }()
	equal(t, "change of the idle connection", idle.ActiveConnection().WaitForStateChange(ctx, connectivity.Ready), false)
	equal(t, "change of the connection with a watch", receive(t, changed), false)
	base := put(t, idle, t.Name(), "value")
	equal(t, "event", events(t, channel, 1, "", base), "put "+t.Name()+"=value@0")
}

func TestLimitsOfMessages(t *testing.T) {
	_, prefix := member(t)
	endpoints := addresses(t, "ETCD_MEMBER")
	_, err := clientv3.New(clientv3.Config{Endpoints: endpoints, MaxCallSendMsgSize: 2, MaxCallRecvMsgSize: 1})
	holds(t, "what is sent must fit into what comes back", err != nil)
	// A client that sends more than the member takes is told so by the member.
	talkative := dial(t, clientv3.Config{Endpoints: endpoints, MaxCallSendMsgSize: 8 * 1024 * 1024})
	_, err = talkative.Put(soon(t), prefix+"key", strings.Repeat("x", 1600*1024))
	fails(t, err, rpctypes.ErrRequestTooLarge)
	_, err = talkative.Put(soon(t), prefix+"key", strings.Repeat("x", 4*1024*1024))
	equal(t, "code", status.Code(err), codes.ResourceExhausted)
	holds(t, fmt.Sprintf("the member has received too much: %v", err), strings.Contains(err.Error(), "received message larger than max"))
	put(t, talkative, prefix+"key", strings.Repeat("x", 100*1024))

	reserved := dial(t, clientv3.Config{Endpoints: endpoints, MaxCallSendMsgSize: 1024, MaxCallRecvMsgSize: 64 * 1024})
	_, err = reserved.Get(soon(t), prefix+"key")
	equal(t, "code of an answer that is too large", status.Code(err), codes.ResourceExhausted)
	equal(t, "count", get(t, reserved, prefix+"key", clientv3.WithCountOnly()).Count, 1)
	_, err = reserved.Put(soon(t), prefix+"key", strings.Repeat("x", 2048))
	holds(t, fmt.Sprintf("the client sends no more: %v", err), err != nil && strings.Contains(err.Error(), "trying to send message larger than max"))
	equal(t, "size of the value", len(value(t, talkative, prefix+"key")), 100*1024)
}

func TestOldClustersAreRejected(t *testing.T) {
	client, _ := member(t)
	config := clientv3.Config{Endpoints: client.Endpoints(), RejectOldCluster: true, DialTimeout: patience, Logger: zap.NewNop()}
	checked, err := clientv3.New(config)
	// One version before the client's own is the oldest.
	if !isAtLeast(t, client, "3.6") {
		fails(t, err, clientv3.ErrOldCluster)
		return
	}
	succeeds(t, err)
	succeeds(t, checked.Close())
}

func TestDialOptionsAndRetries(t *testing.T) {
	_, prefix := member(t)
	var methods []string
	var versions []string
	count := func(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		methods = append(methods, method)
		sent, _ := metadata.FromOutgoingContext(ctx)
		versions = append(versions, sent.Get(rpctypes.MetadataClientAPIVersionKey)...)
		// None of them waits for somebody to be there.
		return invoke(ctx, method, request, answer, connection, append(options, grpc.WaitForReady(false))...)
	}
	config := clientv3.Config{
		Endpoints:             addresses(t, "ETCD_MEMBER"),
		DialOptions:           []grpc.DialOption{grpc.WithChainUnaryInterceptor(count), grpc.WithUserAgent("a test")},
		MaxUnaryRetries:       4,
		BackoffWaitBetween:    30 * time.Millisecond,
		BackoffJitterFraction: 0.1,
	}
	client := dial(t, config)
	put(t, client, prefix+"key", "value")
	equal(t, "methods", methods, []string{"/etcdserverpb.KV/Put"})
	equal(t, "versions", versions, []string{"3.7"})

	// What changes nothing is tried as often as was said, with pauses between; what does, once.
	config.Endpoints = []string{strings.TrimPrefix(urlOfNobody(t), "http://")}
	nobody := dial(t, config)
	methods = nil
	begun := time.Now()
	_, err := nobody.Get(soon(t), prefix+"key")
	equal(t, "code when nobody is there", status.Code(err), codes.Unavailable)
	equal(t, "attempts to read", len(methods), 4)
	holds(t, "pauses between", time.Since(begun) >= 3*27*time.Millisecond)
	methods = nil
	_, err = nobody.Put(soon(t), prefix+"key", "other")
	equal(t, "code when nobody is there", status.Code(err), codes.Unavailable)
	equal(t, "attempts to write", len(methods), 1)
	equal(t, "value", value(t, client, prefix+"key"), "value")

	// Who looks into the client's log finds each attempt that failed.
	path := filepath.Join(t.TempDir(), "client.log")
	logging := zap.NewProductionConfig()
	logging.OutputPaths = []string{path}
	config.LogConfig, config.DialTimeout = &logging, patience
	talkative, err := clientv3.New(config)
	succeeds(t, err)
	defer talkative.Close()
	_, err = talkative.Get(soon(t), prefix+"key")
	equal(t, "code when nobody is there", status.Code(err), codes.Unavailable)
	logged, err := os.ReadFile(path)
	succeeds(t, err)
	equal(t, "lines of attempts", strings.Count(string(logged), `"method":"/etcdserverpb.KV/Range","attempt":`), 4)
}

func TestTheContextOfAClientEndsItsSessions(t *testing.T) {
	_, prefix := member(t)
	ctx, cancel := context.WithCancel(soon(t))
	client := dial(t, clientv3.Config{Endpoints: addresses(t, "ETCD_MEMBER"), Context: ctx})
	put(t, client, prefix+"key", "value")
	held := session(t, client, concurrency.WithTTL(600))
	bounded, end := context.WithCancel(soon(t))
	own := session(t, client, concurrency.WithContext(bounded), concurrency.WithTTL(600))
	equal(t, "client of a session", own.Client(), client)
	end()
	receiveEnd(t, own.Done())
	holds(t, "the other session lives", held.Ctx().Err() == nil)
	holds(t, "a session cannot be closed without its context", own.Close() != nil)
	left, err := client.TimeToLive(soon(t), own.Lease())
	succeeds(t, err)
	holds(t, "so its lease lives until its time", left.TTL > 500)
	_, err = client.Revoke(soon(t), own.Lease())
	succeeds(t, err)
	_, err = client.Revoke(soon(t), held.Lease())
	succeeds(t, err)
	cancel()
	receiveEnd(t, held.Done())
	holds(t, "the client's context has ended", client.Ctx().Err() != nil)
}

// Each part can be made alone, of a client or of a stub.
func TestPartsOfAClient(t *testing.T) {
	whole, prefix := member(t)
	connection, err := grpc.NewClient(addresses(t, "ETCD_MEMBER")[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	succeeds(t, err)
	defer connection.Close()
	bare := clientv3.NewCtxClient(context.Background(), clientv3.WithZapLogger(zap.NewNop()))
	bare.KV = clientv3.NewKVFromKVClient(pb.NewKVClient(connection), bare)
	bare.Lease = clientv3.NewLeaseFromLeaseClient(pb.NewLeaseClient(connection), bare, patience)
	bare.Watcher = clientv3.NewWatchFromWatchClient(pb.NewWatchClient(connection), bare)
	bare.Cluster = clientv3.NewClusterFromClusterClient(pb.NewClusterClient(connection), bare)
	bare.Auth = clientv3.NewAuthFromAuthClient(pb.NewAuthClient(connection), bare)
	bare.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(pb.NewMaintenanceClient(connection), bare)
	parted := clientv3.NewCtxClient(context.Background())
	parted.KV, parted.Lease, parted.Watcher = clientv3.NewKV(whole), clientv3.NewLease(whole), clientv3.NewWatcher(whole)
	parted.Cluster, parted.Auth, parted.Maintenance = clientv3.NewCluster(whole), clientv3.NewAuth(whole), clientv3.NewMaintenance(whole)
	retrying := clientv3.NewCtxClient(context.Background())
	retrying.KV = clientv3.NewKVFromKVClient(clientv3.RetryKVClient(whole), whole)
	retrying.Lease = clientv3.NewLeaseFromLeaseClient(clientv3.RetryLeaseClient(whole), whole, patience)
	retrying.Watcher = clientv3.NewWatcher(whole)
	retrying.Cluster = clientv3.NewClusterFromClusterClient(clientv3.RetryClusterClient(whole), whole)
	retrying.Auth = clientv3.NewAuthFromAuthClient(clientv3.RetryAuthClient(whole), whole)
	retrying.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(clientv3.RetryMaintenanceClient(whole, whole.ActiveConnection()), whole)

	endpoint := whole.Endpoints()[0]
	for i, client := range []*clientv3.Client{bare, parted, retrying} {
		key := fmt.Sprint(prefix, i)
		channel := watch(t, client, key)
		granted, err := client.Grant(soon(t), 600)
		succeeds(t, err)
		renewals, err := client.KeepAlive(soon(t), granted.ID)
		succeeds(t, err)
		equal(t, "time to live", receive(t, renewals).TTL, 600)
		base := put(t, client, key, "value", clientv3.WithLease(granted.ID))
		equal(t, "value", value(t, whole, key), "value")
		equal(t, "event", events(t, channel, 1, prefix, base), fmt.Sprintf("put %d=value@0", i))
		members, err := client.MemberList(soon(t))
		succeeds(t, err)
		equal(t, "client URLs", members.Members[0].ClientURLs, []string{"http://" + endpoint})
		enabled, err := client.AuthStatus(soon(t))
		succeeds(t, err)
		equal(t, "authentication", enabled.Enabled, false)
		alarms, err := client.AlarmList(soon(t))
		succeeds(t, err)
		equal(t, "alarms", len(alarms.Alarms), 0)
		told, err := client.Status(soon(t), endpoint)
		succeeds(t, err)
		equal(t, "leader", told.Leader, members.Members[0].ID)
		_, err = client.UserGet(soon(t), "nobody")
		fails(t, err, rpctypes.ErrUserNotFound)
		_, err = client.Revoke(soon(t), granted.ID)
		succeeds(t, err)
		equal(t, "value", value(t, client, key), "absent")

		// The end of one part is not that of the others.
		succeeds(t, client.Lease.Close())
		closes(t, renewals)
		_, err = client.KeepAlive(soon(t), granted.ID)
		var halted clientv3.ErrKeepAliveHalted
		holds(t, fmt.Sprintf("nothing is kept alive any more: %v", err), errors.As(err, &halted))
		put(t, client, key, "again")
		equal(t, "events", events(t, channel, 2, prefix, base), fmt.Sprintf("delete %d@1, put %d=again@2", i, i))
		succeeds(t, client.Watcher.Close())
	}
	equal(t, "written by all", get(t, whole, prefix, clientv3.WithPrefix()).Count, 3)
}

// Metadata of the caller goes along, and so does the wish for a leader.
func TestRequestsNeedALeader(t *testing.T) {
	client, prefix := member(t)
	ctx := clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(soon(t), "x-test", "1"))
	sent, _ := metadata.FromOutgoingContext(ctx)
	equal(t, "sent", sent.Get("x-test"), []string{"1"})
	_, err := client.Put(ctx, prefix+"key", "value")
	succeeds(t, err)
	// A request that has no time is not begun.
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = client.Put(late, prefix+"key", "late")
	fails(t, err, context.DeadlineExceeded)
	canceled, end := context.WithCancel(soon(t))
	channel := client.Watch(canceled, prefix+"key", clientv3.WithCreatedNotify(), clientv3.WithWatchBufLog())
	receive(t, channel)
	end()
	closes(t, channel)
	equal(t, "value", value(t, client, prefix+"key"), "value")
}

func TestOperationsCanBeReadAndChanged(t *testing.T) {
	client, prefix := member(t)
	op := clientv3.OpGet("a", clientv3.WithRange("b"), clientv3.WithRev(7), clientv3.WithLimit(8), clientv3.WithSerializable(),
		clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend),
		clientv3.WithMinModRev(1), clientv3.WithMaxModRev(2), clientv3.WithMinCreateRev(3), clientv3.WithMaxCreateRev(4))
	equal(t, "kind", []bool{op.IsGet(), op.IsPut(), op.IsDelete(), op.IsTxn()}, []bool{true, false, false, false})
	equal(t, "switches", []bool{op.IsSerializable(), op.IsKeysOnly(), op.IsCountOnly(), op.IsSortSet(), op.IsSortOptionValid(), op.IsPrevKV()},
		[]bool{true, true, false, true, true, false})
	equal(t, "numbers", []int64{op.Rev(), op.Limit(), op.MinModRev(), op.MaxModRev(), op.MinCreateRev(), op.MaxCreateRev()}, []int64{7, 8, 1, 2, 3, 4})
	equal(t, "bounds", string(op.KeyBytes())+".."+string(op.RangeBytes()), "a..b")
	watched := clientv3.OpWatch("a", clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify(),
		clientv3.WithFilterPut(), clientv3.WithFilterDelete(), clientv3.WithPrevKV())
	equal(t, "switches of a watch", []bool{watched.IsFragment(), watched.IsProgressNotify(), watched.IsCreatedNotify(), watched.IsFilterPut(), watched.IsFilterDelete(), watched.IsPrevKV()},
		slices.Repeat([]bool{true}, 6))
	prefixed, open := []clientv3.OpOption{clientv3.WithPrefix()}, []clientv3.OpOption{clientv3.WithFromKey()}
	equal(t, "options", []bool{
		clientv3.IsOptsWithPrefix(prefixed), clientv3.IsOptsWithPrefix(open), clientv3.OpGet("a", prefixed...).IsOptsWithPrefix(),
		clientv3.IsOptsWithFromKey(open), clientv3.IsOptsWithFromKey(prefixed), clientv3.OpGet("a", open...).IsOptsWithFromKey(),
	}, []bool{true, false, true, true, false, true})

	// What was changed is what is done.
	change := func(op clientv3.Op, key, end, value string) clientv3.OpResponse {
		t.Helper()
		op.WithKeyBytes([]byte(prefix + key))
		if end != "" {
			op.WithRangeBytes([]byte(prefix + end))
		}
		if value != "" {
			op.WithValueBytes([]byte(value))
		}
		response, err := client.Do(soon(t), op)
		succeeds(t, err)
		return response
	}
	base := change(clientv3.OpPut("x", "y"), "a", "", "one").Put().Header.Revision
	change(clientv3.OpPut("x", "y"), "b", "", "two")
	got := change(clientv3.OpGet("x"), "a", "c", "").Get()
	equal(t, "keys", keys(got, prefix), "a b")
	equal(t, "value", string(got.Kvs[0].Value), "one")
	equal(t, "same answer", got.OpResponse().Get(), got)
	txn := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(prefix+"a"), "=", "one")}, []clientv3.Op{clientv3.OpGet(prefix + "b")}, nil)
	comparisons, then, otherwise := txn.Txn()
	equal(t, "parts of a transaction", []int{len(comparisons), len(then), len(otherwise)}, []int{1, 1, 0})
	equal(t, "deleted", change(clientv3.OpDelete("x"), "a", "b", "").Del().Deleted, 1)

	comparison := clientv3.Compare(clientv3.Value("x"), "=", "y")
	comparison.WithKeyBytes([]byte(prefix + "b"))
	comparison.WithValueBytes([]byte("two"))
	equal(t, "compared", string(comparison.KeyBytes())+"="+string(comparison.ValueBytes()), prefix+"b=two")
	copied := clientv3.FromCompare(comparison.GetCompare())
	other := copied.Clone()
	other.WithValueBytes([]byte("three"))
	for want, cmp := range map[bool]clientv3.Cmp{true: copied, false: other} {
		response, err := client.Txn(soon(t)).If(cmp).Commit()
		succeeds(t, err)
		equal(t, "succeeded", response.Succeeded, want)
	}
	equal(t, "writes", get(t, client, prefix).Header.Revision, base+2)
}
