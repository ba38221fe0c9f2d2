package clients

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/credentials"
	"go.etcd.io/etcd/client/v3/yaml"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// certificate is the path of a certificate, or of its key: see ../run for the names.
func certificate(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(addresses(t, "ETCD_CERTIFICATES")[0], name)
}

// secure is what a client needs that trusts the member and has this certificate.
func secure(t *testing.T, name string) *clientv3.SecureConfig {
	t.Helper()
	return &clientv3.SecureConfig{Cert: certificate(t, name+".crt"), Key: certificate(t, name+".key"), Cacert: certificate(t, "ca.crt")}
}

// dialSecurely returns a client of the member with TLS.
func dialSecurely(t *testing.T, certificates *clientv3.SecureConfig, login *clientv3.AuthConfig) *clientv3.Client {
	t.Helper()
	config, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{
		Endpoints:          []string{"https://" + addresses(t, "ETCD_TLS_MEMBER")[0]},
		DialTimeout:        patience,
		RequestTimeout:     patience,
		KeepAliveTime:      time.Minute,
		KeepAliveTimeout:   patience,
		MaxCallSendMsgSize: 2 * 1024 * 1024,
		Secure:             certificates,
		Auth:               login,
	}, zap.NewNop())
	succeeds(t, err)
	return dial(t, *config)
}

func TestTLSNeedsACertificate(t *testing.T) {
	address := addresses(t, "ETCD_TLS_MEMBER")[0]
	port := address[strings.LastIndex(address, ":"):]
	trusting, strange := secure(t, "root"), secure(t, "stranger")
	trusting.Cert, trusting.Key = "", ""
	refused := map[string]*clientv3.Client{
		"without a certificate":            dialSecurely(t, trusting, nil),
		"with a certificate of another CA": dialSecurely(t, strange, nil),
		"of a member of an unknown CA":     dialSecurely(t, &clientv3.SecureConfig{Cert: secure(t, "root").Cert, Key: secure(t, "root").Key}, nil),
		"without TLS":                      dial(t, clientv3.Config{Endpoints: []string{"http://" + address}}),
	}
	for name, client := range refused {
		// The client's own methods would wait for the member to become another.
		_, err := pb.NewKVClient(client.ActiveConnection()).Put(soon(t), &pb.PutRequest{Key: []byte(t.Name())})
		equal(t, "code "+name, status.Code(err), codes.Unavailable)
	}

	client := dialSecurely(t, secure(t, "alice"), nil)
	equal(t, "value after refusals", value(t, client, t.Name()), "absent")

	authority, err := os.ReadFile(certificate(t, "ca.crt"))
	succeeds(t, err)
	pair, err := tls.LoadX509KeyPair(certificate(t, "root.crt"), certificate(t, "root.key"))
	succeeds(t, err)
	trusted := x509.NewCertPool()
	holds(t, "there is an authority", trusted.AppendCertsFromPEM(authority))
	written := map[string]*tls.Config{
		"1.2": {RootCAs: trusted, Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12},
		"1.3": {RootCAs: trusted, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
	}
	for version, config := range written {
		for _, endpoint := range []string{"localhost" + port, "https://localhost" + port, "https://" + address} {
			client := dial(t, clientv3.Config{Endpoints: []string{endpoint}, TLS: config})
			put(t, client, t.Name(), endpoint+" by "+version)
			equal(t, "value", value(t, client, t.Name()), endpoint+" by "+version)
		}
	}

	// The same settings from a file.
	path := filepath.Join(t.TempDir(), "client.yaml")
	content := fmt.Sprintf("endpoints: [\"https://%s\"]\ntrusted-ca-file: %s\ncert-file: %s\nkey-file: %s\n",
		address, certificate(t, "ca.crt"), certificate(t, "root.crt"), certificate(t, "root.key"))
	succeeds(t, os.WriteFile(path, []byte(content), 0o600))
	config, err := yaml.NewConfig(path)
	succeeds(t, err)
	equal(t, "value", value(t, dial(t, *config), t.Name()), value(t, client, t.Name()))

	// And settings that want no TLS.
	plainly := clientv3.ConfigSpec{
		Endpoints: addresses(t, "ETCD_MEMBER"),
		Secure:    &clientv3.SecureConfig{InsecureTransport: true},
		Auth:      &clientv3.AuthConfig{},
	}
	copied := plainly.Clone()
	equal(t, "copy", *copied.Secure, *plainly.Secure)
	holds(t, "nobody logs in", copied.Auth.Empty())
	config, err = clientv3.NewClientConfig(copied, zap.NewNop())
	succeeds(t, err)
	equal(t, "value in another member", value(t, dial(t, *config), t.Name()), "absent")

	skips := secure(t, "root")
	skips.Cacert, skips.InsecureSkipVerify = "", true
	equal(t, "value of whom is not verified", get(t, dialSecurely(t, skips, nil), t.Name()).Count, 1)
}

func TestEverythingOverTLS(t *testing.T) {
	client := dialSecurely(t, secure(t, "root"), nil)
	key := t.Name()
	channel := watch(t, client, key)
	granted, err := client.Grant(soon(t), 600)
	succeeds(t, err)
	renewals, err := client.KeepAlive(soon(t), granted.ID)
	succeeds(t, err)
	equal(t, "time to live", receive(t, renewals).TTL, 600)
	base := put(t, client, key, "value", clientv3.WithLease(granted.ID))
	done, err := client.Txn(soon(t)).If(clientv3.Compare(clientv3.ModRevision(key), "=", base)).Then(clientv3.OpPut(key, "a value that is looked for")).Commit()
	succeeds(t, err)
	equal(t, "succeeded", done.Succeeded, true)
	_, err = client.Delete(soon(t), key)
	succeeds(t, err)
	equal(t, "events", events(t, channel, 3, "", base), "put "+key+"=value@0, put "+key+"=a value that is looked for@1, delete "+key+"@2")
	big := strings.Repeat("x", 1024*1024)
	for i := range 5 {
		put(t, client, fmt.Sprint(key, i), big)
	}
	equal(t, "size of a large answer", len(get(t, client, key, clientv3.WithPrefix()).Kvs), 5)
	reader, err := client.Snapshot(soon(t))
	succeeds(t, err)
	checkSnapshot(t, reader)
	_, err = client.Delete(soon(t), key, clientv3.WithPrefix())
	succeeds(t, err)

	// Members say where they are reached: with TLS.
	succeeds(t, client.Sync(soon(t)))
	equal(t, "endpoints after Sync", client.Endpoints(), []string{"https://" + addresses(t, "ETCD_TLS_MEMBER")[0]})
	status, err := client.Status(soon(t), client.Endpoints()[0])
	succeeds(t, err)
	equal(t, "leader", status.Leader, status.Header.MemberId)
}

// Who has a certificate is the user of its common name, without a password.
func TestUsersByCertificate(t *testing.T) {
	root := dialSecurely(t, secure(t, "root"), nil)
	for _, name := range []string{"root", "alice"} {
		_, err := root.UserAddWithOptions(soon(t), name, "", &clientv3.UserAddOptions{NoPassword: true})
		succeeds(t, err)
		_, err = root.RoleAdd(soon(t), name)
		succeeds(t, err)
		_, err = root.UserGrantRole(soon(t), name, name)
		succeeds(t, err)
	}
	_, err := root.UserAdd(soon(t), "bob", "bob's password")
	succeeds(t, err)
	readable, err := clientv3.StrToPermissionType("read")
	succeeds(t, err)
	_, err = root.RoleGrantPermission(soon(t), "alice", "shared/", clientv3.GetPrefixRangeEnd("shared/"), readable)
	succeeds(t, err)
	put(t, root, "shared/key", "root's")
	_, err = root.AuthEnable(soon(t))
	succeeds(t, err)
	defer func() {
		_, err := root.AuthDisable(soon(t))
		succeeds(t, err)
		put(t, dialSecurely(t, secure(t, "alice"), nil), "shared/key", "anybody's")
	}()

	put(t, root, "shared/key", "root's own")
	alice := dialSecurely(t, secure(t, "alice"), nil)
	equal(t, "value", value(t, alice, "shared/key"), "root's own")
	_, err = alice.Put(soon(t), "shared/key", "alice's")
	fails(t, err, rpctypes.ErrPermissionDenied)
	_, err = alice.Get(soon(t), "other")
	fails(t, err, rpctypes.ErrPermissionDenied)
	own, err := alice.UserGet(soon(t), "alice")
	succeeds(t, err)
	equal(t, "own roles", own.Roles, []string{"alice"})
	_, err = alice.UserList(soon(t))
	fails(t, err, rpctypes.ErrPermissionDenied)
	denied := receive(t, alice.Watch(soon(t), "other"))
	equal(t, "canceled", denied.Canceled, true)
	fails(t, denied.Err(), rpctypes.ErrPermissionDenied)
	channel := watch(t, alice, "shared/key")
	base := put(t, root, "shared/key", "watched")
	equal(t, "event", events(t, channel, 1, "shared/", base), "put key=watched@0")

	// A password weighs more than the certificate.
	bob := dialSecurely(t, secure(t, "root"), &clientv3.AuthConfig{Username: "bob", Password: "bob's password"})
	_, err = bob.Get(soon(t), "shared/key")
	fails(t, err, rpctypes.ErrPermissionDenied)
	_, err = root.UserGrantRole(soon(t), "bob", "alice")
	succeeds(t, err)
	equal(t, "read by bob", value(t, bob, "shared/key"), "watched")

	// So does a token, over a connection of whoever makes it.
	token, err := bob.Authenticate(soon(t), "bob", "bob's password")
	succeeds(t, err)
	bundle := credentials.NewPerRPCCredentialBundle()
	bundle.UpdateAuthToken(token.Token)
	trusted, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{Secure: secure(t, "root")}, zap.NewNop())
	succeeds(t, err)
	connection, err := grpc.NewClient(addresses(t, "ETCD_TLS_MEMBER")[0],
		grpc.WithTransportCredentials(credentials.NewTransportCredential(trusted.TLS)),
		grpc.WithPerRPCCredentials(bundle.PerRPCCredentials()))
	succeeds(t, err)
	defer connection.Close()
	remote := pb.NewKVClient(connection)
	answer, err := remote.Range(soon(t), &pb.RangeRequest{Key: []byte("shared/key")})
	succeeds(t, err)
	equal(t, "read with bob's token", string(answer.Kvs[0].Value), "watched")
	_, err = remote.Put(soon(t), &pb.PutRequest{Key: []byte("shared/key"), Value: []byte("bob's")})
	fails(t, err, rpctypes.ErrPermissionDenied)
	bundle.UpdateAuthToken("nobody's")
	_, err = remote.Range(soon(t), &pb.RangeRequest{Key: []byte("shared/key")})
	fails(t, err, rpctypes.ErrInvalidAuthToken)
	// Without one it is the certificate again.
	bundle.UpdateAuthToken("")
	_, err = remote.Put(soon(t), &pb.PutRequest{Key: []byte("shared/key"), Value: []byte("root's")})
	succeeds(t, err)

	// A user that goes takes the right of the certificate along.
	_, err = root.UserDelete(soon(t), "alice")
	succeeds(t, err)
	_, err = alice.Get(soon(t), "shared/key")
	fails(t, err, rpctypes.ErrPermissionDenied)
}
