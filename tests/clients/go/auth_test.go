package clients

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// allowed names what a permission is for.
func allowed(permission *clientv3.Permission) string {
	return fmt.Sprintf("%v %s..%s", permission.PermType, permission.Key, permission.RangeEnd)
}

// forgetsNested tells whether this is an etcd that lets everybody do everything in nested transactions (CVE-2026-33343).
func forgetsNested(t *testing.T, client *clientv3.Client) bool {
	t.Helper()
	status, err := client.Status(soon(t), client.Endpoints()[0])
	succeeds(t, err)
	var minor, patch int
	_, err = fmt.Sscanf(status.Version, "3.%d.%d", &minor, &patch)
	succeeds(t, err)
	return minor == 5 && patch < 28
}

// These are one story: authentication is enabled at its beginning and disabled at its end, and all of it is on a member of its own.
func TestAuthentication(t *testing.T) {
	endpoints := addresses(t, "ETCD_AUTH_MEMBER")
	anonymous := dial(t, clientv3.Config{Endpoints: endpoints})
	login := func(t *testing.T, name, password string) *clientv3.Client {
		t.Helper()
		return dial(t, clientv3.Config{Endpoints: endpoints, Username: name, Password: password})
	}

	t.Run("users and roles", func(t *testing.T) {
		status, err := anonymous.AuthStatus(soon(t))
		succeeds(t, err)
		equal(t, "enabled", status.Enabled, false)
		_, err = anonymous.AuthEnable(soon(t))
		fails(t, err, rpctypes.ErrRootUserNotExist)
		_, err = anonymous.Authenticate(soon(t), "root", "secret")
		fails(t, err, rpctypes.ErrAuthNotEnabled)

		for _, name := range []string{"root", "alice", "bob", "carol"} {
			_, err = anonymous.UserAdd(soon(t), name, name+"'s password")
			succeeds(t, err)
		}
		_, err = anonymous.UserAddWithOptions(soon(t), "certificate", "", &clientv3.UserAddOptions{NoPassword: true})
		succeeds(t, err)
		_, err = anonymous.UserAdd(soon(t), "alice", "again")
		fails(t, err, rpctypes.ErrUserAlreadyExist)
		_, err = anonymous.UserAdd(soon(t), "", "nobody")
		fails(t, err, rpctypes.ErrUserEmpty)
		users, err := anonymous.UserList(soon(t))
		succeeds(t, err)
		equal(t, "users", users.Users, []string{"alice", "bob", "carol", "certificate", "root"})
		_, err = anonymous.AuthEnable(soon(t))
		fails(t, err, rpctypes.ErrRootRoleNotExist)

		for _, name := range []string{"root", "reader", "writer", "spare"} {
			_, err = anonymous.RoleAdd(soon(t), name)
			succeeds(t, err)
		}
		_, err = anonymous.RoleAdd(soon(t), "reader")
		fails(t, err, rpctypes.ErrRoleAlreadyExist)
		roles, err := anonymous.RoleList(soon(t))
		succeeds(t, err)
		equal(t, "roles", roles.Roles, []string{"reader", "root", "spare", "writer"})

		grants := []struct {
			role, key, end string
			kind           clientv3.PermissionType
		}{
			{"reader", "shared/", "shared0", clientv3.PermissionType(clientv3.PermRead)},
			{"reader", "one", "", clientv3.PermissionType(clientv3.PermRead)},
			{"writer", "shared/", "shared0", clientv3.PermissionType(clientv3.PermReadWrite)},
			{"writer", "drop", "", clientv3.PermissionType(clientv3.PermWrite)},
			{"spare", "spare", "\x00", clientv3.PermissionType(clientv3.PermRead)},
		}
		for _, grant := range grants {
			_, err = anonymous.RoleGrantPermission(soon(t), grant.role, grant.key, grant.end, grant.kind)
			succeeds(t, err)
		}
		_, err = anonymous.RoleGrantPermission(soon(t), "absent", "k", "", clientv3.PermissionType(clientv3.PermRead))
		fails(t, err, rpctypes.ErrRoleNotFound)
		role, err := anonymous.RoleGet(soon(t), "reader")
		succeeds(t, err)
		equal(t, "permissions", len(role.Perm), 2)
		equal(t, "permission", allowed((*clientv3.Permission)(role.Perm[0])), "READ one..")
		equal(t, "permission", allowed((*clientv3.Permission)(role.Perm[1])), "READ shared/..shared0")
		_, err = anonymous.RoleGet(soon(t), "absent")
		fails(t, err, rpctypes.ErrRoleNotFound)

		for user, role := range map[string]string{"root": "root", "alice": "reader", "bob": "writer"} {
			_, err = anonymous.UserGrantRole(soon(t), user, role)
			succeeds(t, err)
		}
		_, err = anonymous.UserGrantRole(soon(t), "alice", "spare")
		succeeds(t, err)
		_, err = anonymous.UserGrantRole(soon(t), "absent", "reader")
		fails(t, err, rpctypes.ErrUserNotFound)
		_, err = anonymous.UserGrantRole(soon(t), "alice", "absent")
		fails(t, err, rpctypes.ErrRoleNotFound)
		user, err := anonymous.UserGet(soon(t), "alice")
		succeeds(t, err)
		equal(t, "roles", user.Roles, []string{"reader", "spare"})
		_, err = anonymous.UserRevokeRole(soon(t), "alice", "spare")
		succeeds(t, err)
		_, err = anonymous.UserRevokeRole(soon(t), "alice", "spare")
		fails(t, err, rpctypes.ErrRoleNotGranted)
		_, err = anonymous.RoleRevokePermission(soon(t), "spare", "spare", "\x00")
		succeeds(t, err)
		_, err = anonymous.RoleRevokePermission(soon(t), "spare", "spare", "\x00")
		fails(t, err, rpctypes.ErrPermissionNotGranted)
		_, err = anonymous.UserGrantRole(soon(t), "carol", "spare")
		succeeds(t, err)
		_, err = anonymous.RoleDelete(soon(t), "spare")
		succeeds(t, err)
		_, err = anonymous.RoleDelete(soon(t), "spare")
		fails(t, err, rpctypes.ErrRoleNotFound)
		user, err = anonymous.UserGet(soon(t), "carol")
		succeeds(t, err)
		equal(t, "roles after the role is gone", len(user.Roles), 0)
		put(t, anonymous, "shared/before", "anybody's")
	})

	_, err := anonymous.AuthEnable(soon(t))
	succeeds(t, err)
	root := login(t, "root", "root's password")
	defer func() {
		_, err := root.AuthDisable(soon(t))
		succeeds(t, err)
		put(t, anonymous, "shared/after", "anybody's again")
	}()

	t.Run("who is not known is refused", func(t *testing.T) {
		_, err := anonymous.Get(soon(t), "shared/before")
		fails(t, err, rpctypes.ErrUserEmpty)
		_, err = anonymous.Put(soon(t), "shared/before", "x")
		fails(t, err, rpctypes.ErrUserEmpty)
		_, err = anonymous.UserList(soon(t))
		fails(t, err, rpctypes.ErrUserEmpty)
		_, err = anonymous.Authenticate(soon(t), "alice", "wrong")
		fails(t, err, rpctypes.ErrAuthFailed)
		_, err = anonymous.Authenticate(soon(t), "absent", "wrong")
		fails(t, err, rpctypes.ErrAuthFailed)
		_, err = anonymous.Authenticate(soon(t), "certificate", "")
		holds(t, fmt.Sprintf("no password is right for a user without one: %v", err), err != nil && strings.Contains(err.Error(), "no password user"))
		token, err := anonymous.Authenticate(soon(t), "alice", "alice's password")
		succeeds(t, err)
		holds(t, "there is a token", len(token.Token) > 0)
		status, err := root.AuthStatus(soon(t))
		succeeds(t, err)
		equal(t, "enabled", status.Enabled, true)
		holds(t, "a revision of users and roles", status.AuthRevision > 1)
	})

	t.Run("keys", func(t *testing.T) {
		alice, bob, carol := login(t, "alice", "alice's password"), login(t, "bob", "bob's password"), login(t, "carol", "carol's password")
		put(t, bob, "shared/key", "bob's")
		equal(t, "read by a reader", value(t, alice, "shared/key"), "bob's")
		equal(t, "read by prefix", get(t, alice, "shared/", clientv3.WithPrefix()).Count, 2)
		_, err := alice.Put(soon(t), "shared/key", "alice's")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.Delete(soon(t), "shared/key")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.Get(soon(t), "shared/", clientv3.WithFromKey())
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.Get(soon(t), "one", clientv3.WithPrefix())
		fails(t, err, rpctypes.ErrPermissionDenied)
		equal(t, "one key", get(t, alice, "one").Count, 0)
		put(t, bob, "drop", "in")
		_, err = bob.Get(soon(t), "drop")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = bob.Put(soon(t), "drop", "in", clientv3.WithPrevKV())
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = carol.Get(soon(t), "shared/key")
		fails(t, err, rpctypes.ErrPermissionDenied)
		equal(t, "root reads all", value(t, root, "drop"), "in")

		// All of a transaction must be allowed, the branch that is not taken and the comparisons too.
		_, err = alice.Txn(soon(t)).Then(clientv3.OpGet("shared/key")).Else(clientv3.OpPut("shared/key", "x")).Commit()
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.Txn(soon(t)).If(clientv3.Compare(clientv3.Version("drop"), ">", 0)).Then(clientv3.OpGet("shared/key")).Commit()
		fails(t, err, rpctypes.ErrPermissionDenied)
		if !forgetsNested(t, root) {
			_, err = alice.Txn(soon(t)).Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("shared/key", "x")}, nil)).Commit()
			fails(t, err, rpctypes.ErrPermissionDenied)
		}
		done, err := bob.Txn(soon(t)).If(clientv3.Compare(clientv3.Value("shared/key"), "=", "bob's")).Then(clientv3.OpPut("shared/key", "bob's own")).Commit()
		succeeds(t, err)
		equal(t, "succeeded", done.Succeeded, true)

		_, err = alice.UserAdd(soon(t), "mallory", "x")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.AuthDisable(soon(t))
		fails(t, err, rpctypes.ErrPermissionDenied)
		own, err := alice.UserGet(soon(t), "alice")
		succeeds(t, err)
		equal(t, "own roles", own.Roles, []string{"reader"})
		_, err = alice.UserGet(soon(t), "bob")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.RoleGet(soon(t), "reader")
		succeeds(t, err)
		_, err = alice.RoleGet(soon(t), "writer")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.AlarmList(soon(t))
		succeeds(t, err)
		_, err = alice.Defragment(soon(t), endpoints[0])
		// Some versions name another package in front.
		holds(t, fmt.Sprintf("only root defragments: %v", err), err != nil && strings.HasSuffix(err.Error(), ": permission denied"))
	})

	t.Run("watches and leases", func(t *testing.T) {
		alice, bob := login(t, "alice", "alice's password"), login(t, "bob", "bob's password")
		denied := receive(t, alice.Watch(soon(t), "drop"))
		equal(t, "canceled", denied.Canceled, true)
		fails(t, denied.Err(), rpctypes.ErrPermissionDenied)
		channel := watch(t, alice, "shared/", clientv3.WithPrefix())
		base := put(t, bob, "shared/watched", "1")
		equal(t, "event", events(t, channel, 1, "shared/", base), "put watched=1@0")

		granted, err := bob.Grant(soon(t), 600)
		succeeds(t, err)
		put(t, bob, "shared/leased", "1", clientv3.WithLease(granted.ID))
		put(t, bob, "drop", "1", clientv3.WithLease(granted.ID))
		// Who may not write the keys of a lease may not end them.
		_, err = alice.Revoke(soon(t), granted.ID)
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = alice.TimeToLive(soon(t), granted.ID, clientv3.WithAttachedKeys())
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = bob.Revoke(soon(t), granted.ID)
		succeeds(t, err)
		equal(t, "value", value(t, bob, "shared/leased"), "absent")
	})

	t.Run("tokens instead of passwords", func(t *testing.T) {
		token, err := anonymous.Authenticate(soon(t), "alice", "alice's password")
		succeeds(t, err)
		alice := dial(t, clientv3.Config{Endpoints: endpoints, Token: token.Token})
		equal(t, "read with a token", value(t, alice, "shared/key"), "bob's own")
		_, err = alice.Put(soon(t), "shared/key", "alice's")
		fails(t, err, rpctypes.ErrPermissionDenied)
		channel := watch(t, alice, "shared/token")
		base := put(t, root, "shared/token", "1")
		equal(t, "event", events(t, channel, 1, "shared/", base), "put token=1@0")
		stranger := dial(t, clientv3.Config{Endpoints: endpoints, Token: "nobody's", MaxUnaryRetries: 1})
		_, err = stranger.Get(soon(t), "shared/key")
		fails(t, err, rpctypes.ErrInvalidAuthToken)
		for name, want := range map[string]string{"read": "READ", "Write": "WRITE", "READWRITE": "READWRITE"} {
			kind, err := clientv3.StrToPermissionType(name)
			succeeds(t, err)
			_, err = root.RoleGrantPermission(soon(t), "writer", "by name", "", kind)
			succeeds(t, err)
			role, err := root.RoleGet(soon(t), "writer")
			succeeds(t, err)
			equal(t, "permission", allowed((*clientv3.Permission)(role.Perm[0])), want+" by name..")
		}
		_, err = clientv3.StrToPermissionType("everything")
		holds(t, "there is no such permission", err != nil)
		_, err = root.RoleRevokePermission(soon(t), "writer", "by name", "")
		succeeds(t, err)
	})

	t.Run("changes while clients are connected", func(t *testing.T) {
		alice, carol := login(t, "alice", "alice's password"), login(t, "carol", "carol's password")
		_, err := carol.Get(soon(t), "shared/key")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = root.UserGrantRole(soon(t), "carol", "reader")
		succeeds(t, err)
		equal(t, "read after the grant", value(t, carol, "shared/key"), "bob's own")
		_, err = root.RoleRevokePermission(soon(t), "reader", "shared/", "shared0")
		succeeds(t, err)
		_, err = carol.Get(soon(t), "shared/key")
		fails(t, err, rpctypes.ErrPermissionDenied)
		_, err = root.RoleGrantPermission(soon(t), "reader", "shared/", "shared0", clientv3.PermissionType(clientv3.PermRead))
		succeeds(t, err)
		equal(t, "read after the second grant", value(t, alice, "shared/key"), "bob's own")

		// Tokens are forgotten while authentication is off; the client gets a new one by itself.
		_, err = root.AuthDisable(soon(t))
		succeeds(t, err)
		equal(t, "anybody reads", value(t, anonymous, "shared/key"), "bob's own")
		_, err = anonymous.AuthEnable(soon(t))
		succeeds(t, err)
		equal(t, "read with a new token", value(t, alice, "shared/key"), "bob's own")
		equal(t, "watch with a new token", events(t, alice.Watch(soon(t), "shared/key", clientv3.WithRev(get(t, alice, "shared/key").Kvs[0].ModRevision)), 1, "shared/", get(t, alice, "shared/key").Kvs[0].ModRevision), "put key=bob's own@0")

		_, err = root.UserChangePassword(soon(t), "carol", "another password")
		succeeds(t, err)
		_, err = anonymous.Authenticate(soon(t), "carol", "carol's password")
		fails(t, err, rpctypes.ErrAuthFailed)
		equal(t, "read with the new password", value(t, login(t, "carol", "another password"), "shared/key"), "bob's own")
		_, err = root.UserDelete(soon(t), "carol")
		succeeds(t, err)
		_, err = anonymous.Authenticate(soon(t), "carol", "another password")
		fails(t, err, rpctypes.ErrAuthFailed)
		_, err = root.UserDelete(soon(t), "carol")
		fails(t, err, rpctypes.ErrUserNotFound)
		_, err = root.UserDelete(soon(t), "root")
		fails(t, err, rpctypes.ErrInvalidAuthMgmt)
		_, err = root.UserRevokeRole(soon(t), "root", "root")
		fails(t, err, rpctypes.ErrInvalidAuthMgmt)
		_, err = root.RoleDelete(soon(t), "root")
		fails(t, err, rpctypes.ErrInvalidAuthMgmt)
	})
}
