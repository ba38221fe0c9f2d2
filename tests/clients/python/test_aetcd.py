"""aetcd, a client for asyncio over gRPC, driven through all that it has against running members.

Where the members are is said by the environment (see ../run). Each test has keys of its own; they run one after the other, which
lets them count revisions.
"""

import asyncio
import contextlib
import hashlib
import io
import os
import time
import unittest
import unittest.mock

# Refused connections are what some tests are about: the library under the client would print each.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import aetcd
import grpc
from aetcd import rpc

# How long anything may take, in seconds, that ought to happen soon.
PATIENCE = 20


def addresses(variable):
    value = os.environ.get(variable)
    if not value:
        raise unittest.SkipTest(f"{variable} is not set: start the tests with tests/clients/run")
    return [(host, int(port)) for host, port in (each.split(":") for each in value.split(","))]


def client(address, **options):
    return aetcd.Client(host=address[0], port=address[1], timeout=PATIENCE, **options)


class Member(unittest.IsolatedAsyncioTestCase):
    """A client of the member that has no others, and a prefix of keys for each test alone."""

    async def asyncSetUp(self):
        self.client = await self.enterAsyncContext(client(addresses("ETCD_MEMBER")[0]))
        self.prefix = f"{self.id()}/".encode()
        self.addAsyncCleanup(self.client.delete_prefix, self.prefix)

    def key(self, name):
        return self.prefix + name

    async def put(self, name, value, **options):
        """Puts a value and returns the revision."""
        return (await self.client.put(self.key(name), value, **options)).header.revision

    async def value(self, name):
        got = await self.client.get(self.key(name))
        return None if got is None else got.value

    def names(self, answer):
        return b" ".join(kv.key.removeprefix(self.prefix) for kv in answer)

    @contextlib.asynccontextmanager
    async def watching(self, watch):
        """A function that gives the next events of a watch, as texts with revisions counted from a base."""
        watch = await watch
        events = watch.__aiter__()

        async def following(count, base):
            texts = []
            for _ in range(count):
                event = await asyncio.wait_for(anext(events), PATIENCE)
                text = f"{event.kind} {event.kv.key.removeprefix(self.prefix).decode()}"
                text += f"={event.kv.value.decode()}" if event.kind == "PUT" else ""
                text += f"@{event.kv.mod_revision - base}"
                text += f" (was {event.prev_kv.value.decode()})" if event.prev_kv and event.prev_kv.key else ""
                texts.append(text)
            return texts

        yield following
        await watch.cancel()
        with self.assertRaises(StopAsyncIteration):
            await asyncio.wait_for(anext(events), PATIENCE)


class Keys(Member):
    async def test_puts_and_gets(self):
        first = await self.put(b"b", b"1")
        again = await self.client.put(self.key(b"b"), b"2", prev_kv=True)
        self.assertEqual(again.header.revision, first + 1)
        self.assertEqual(again.prev_kv.value, b"1")
        got = await self.client.get(self.key(b"b"))
        self.assertEqual((got.key, got.value), (self.key(b"b"), b"2"))
        self.assertEqual((got.create_revision, got.mod_revision, got.version, got.lease), (first, first + 1, 2, 0))
        self.assertEqual(got.header.revision, first + 1)
        self.assertEqual((await self.client.get(self.key(b"b"), serializable=True)).value, b"2")
        self.assertIsNone(await self.client.get(self.key(b"absent")))
        everything = bytes(range(256))
        await self.client.put(self.key(everything), everything)
        self.assertEqual((await self.client.get(self.key(everything))).value, everything)

    async def test_ranges_in_every_order(self):
        for name, value in [(b"b", b"2"), (b"a", b"9"), (b"c", b"5"), (b"a", b"3"), (b"a", b"4"), (b"b", b"6")]:
            await self.put(name, value)
        answer = await self.client.get_prefix(self.prefix)
        self.assertEqual((answer.count, answer.more, len(answer)), (3, False, 3))
        self.assertEqual([(kv.key.removeprefix(self.prefix), kv.value) for kv in answer], [(b"a", b"4"), (b"b", b"6"), (b"c", b"5")])
        orders = {"key": b"a b c", "version": b"c b a", "create": b"b a c", "mod": b"c a b", "value": b"a c b"}
        for target, want in orders.items():
            answer = await self.client.get_prefix(self.prefix, sort_order="ascend", sort_target=target)
            self.assertEqual(self.names(answer), want, target)
            answer = await self.client.get_prefix(self.prefix, sort_order="descend", sort_target=target)
            self.assertEqual(self.names(answer), want[::-1], target)
        answer = await self.client.get_range(self.key(b"a"), self.key(b"c"))
        self.assertEqual(self.names(answer), b"a b")
        answer = await self.client.get_prefix(self.prefix, keys_only=True)
        self.assertEqual([kv.value for kv in answer], [b"", b"", b""])
        everything = await self.client.get_all()
        self.assertTrue({self.key(name) for name in (b"a", b"b", b"c")} <= {kv.key for kv in everything})
        self.assertFalse(await self.client.get_prefix(self.key(b"absent")))

    async def test_closing_and_connecting_again(self):
        one = client(addresses("ETCD_MEMBER")[0], connect_wait_timeout=PATIENCE, options={"grpc.primary_user_agent": "a test"})
        # The first of them connects, the others wait for it.
        answers = await asyncio.gather(*(one.put(self.key(b"%d" % i), b"value") for i in range(5)))
        self.assertEqual(len({answer.header.revision for answer in answers}), 5)
        watch = await one.watch(self.key(b"0"))
        await one.close()
        with self.assertRaises(StopAsyncIteration):
            await asyncio.wait_for(anext(watch.__aiter__()), PATIENCE)
        await one.close()
        self.assertEqual((await one.get(self.key(b"4"))).value, b"value")
        await one.close()
        with self.assertRaisesRegex(Exception, "both username and password"):
            client(addresses("ETCD_MEMBER")[0], username="alice")
        nobody = aetcd.Client(host="127.0.0.1", port=1, timeout=PATIENCE)
        with self.assertRaises(aetcd.ConnectionFailedError):
            await nobody.get(b"key")
        await nobody.close()
        hasty = aetcd.Client(*addresses("ETCD_MEMBER")[0], timeout=1e-6)
        with self.assertRaises(aetcd.ConnectionTimeoutError):
            await hasty.get(b"key")
        await hasty.close()

    async def test_deletes(self):
        for name in (b"a", b"b", b"c", b"d"):
            base = await self.put(name, b"value of " + name)
        self.assertIsNone(await self.client.delete(self.key(b"absent")))
        deleted = await self.client.delete(self.key(b"a"), prev_kv=True)
        self.assertEqual((deleted.deleted, deleted.prev_kv.value, deleted.header.revision), (1, b"value of a", base + 1))
        deleted = await self.client.delete_range(self.key(b"b"), self.key(b"d"), prev_kv=True)
        self.assertEqual((deleted.deleted, deleted.header.revision), (2, base + 2))
        self.assertEqual([kv.value for kv in deleted], [b"value of b", b"value of c"])
        self.assertEqual((await self.client.delete_prefix(self.prefix)).deleted, 1)
        self.assertEqual((await self.client.get_prefix(self.prefix)).count, 0)

    async def test_refusals(self):
        await self.put(b"key", b"value")
        with self.assertRaisesRegex(aetcd.InvalidArgumentError, "^etcdserver: key is not provided$"):
            await self.client.put(b"", b"value")
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: requested lease not found$"):
            await self.client.put(self.key(b"key"), b"value", lease=4711)
        with self.assertRaisesRegex(aetcd.InvalidArgumentError, "^etcdserver: request is too large$"):
            await self.client.put(self.key(b"key"), b"x" * 1_600_000)
        self.assertEqual(await self.value(b"key"), b"value")

    async def test_compaction(self):
        base = await self.put(b"key", b"1")
        await self.put(b"key", b"2")
        await self.client.compact(base + 1, physical=True)
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: mvcc: required revision has been compacted$"):
            await self.client.compact(base)
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: mvcc: required revision is a future revision$"):
            await self.client.compact(base + 1000)
        with self.assertRaises(aetcd.RevisionCompactedError) as refused:
            watch = await self.client.watch(self.key(b"key"), start_revision=base)
            await asyncio.wait_for(anext(watch.__aiter__()), PATIENCE)
        self.assertEqual(refused.exception.compacted_revision, base + 1)


class Transactions(Member):
    async def test_comparisons(self):
        is_ = self.client.transactions
        created = await self.put(b"key", b"m")
        key, absent = self.key(b"key"), self.key(b"absent")
        comparisons = [
            (is_.value(key) == b"m", True),
            (is_.value(key) != b"m", False),
            (is_.value(key) < b"n", True),
            (is_.value(key) > b"m", False),
            (is_.version(key) == 1, True),
            (is_.create(key) == created, True),
            (is_.mod(key) > created, False),
            (is_.version(absent) == 0, True),
            (is_.value(absent) != b"x", False),
        ]
        for i, (comparison, want) in enumerate(comparisons):
            succeeded, _ = await self.client.transaction(compare=[comparison], success=[], failure=[])
            self.assertEqual(succeeded, want, i)

    async def test_branches_and_nesting(self):
        do = self.client.transactions
        base = await self.put(b"a", b"old")
        succeeded, responses = await self.client.transaction(
            compare=[do.value(self.key(b"a")) == b"old"],
            success=[
                do.put(self.key(b"b"), b"new", prev_kv=True),
                do.delete(self.key(b"a"), prev_kv=True),
                do.get(self.prefix, range_end=self.prefix[:-1] + b"0"),
                do.txn(
                    compare=[do.value(self.key(b"b")) == b"old"],
                    success=[do.put(self.key(b"wrong"), b"branch")],
                    failure=[do.put(self.key(b"c"), b"nested")],
                ),
            ],
            failure=[do.put(self.key(b"wrong"), b"branch")],
        )
        self.assertTrue(succeeded)
        self.assertEqual(responses[1].response_delete_range.prev_kvs[0].value, b"old")
        self.assertEqual([value for value, _ in responses[2]], [b"new"])
        self.assertFalse(responses[3].response_txn.succeeded)
        answer = await self.client.get_prefix(self.prefix)
        self.assertEqual([(kv.key.removeprefix(self.prefix), kv.mod_revision) for kv in answer], [(b"b", base + 1), (b"c", base + 1)])
        self.assertFalse(await self.client.replace(self.key(b"b"), b"old", b"replaced"))
        self.assertTrue(await self.client.replace(self.key(b"b"), b"new", b"replaced"))
        self.assertEqual(await self.value(b"b"), b"replaced")
        with self.assertRaisesRegex(aetcd.InvalidArgumentError, "^etcdserver: duplicate key given in txn request$"):
            await self.client.transaction(compare=[], success=[do.put(self.key(b"b"), b"1"), do.put(self.key(b"b"), b"2")], failure=[])


class Watches(Member):
    async def test_events(self):
        one = self.watching(self.client.watch(self.key(b"a")))
        all_ = self.watching(self.client.watch_prefix(self.prefix, prev_kv=True))
        some = self.watching(self.client.watch(self.key(b"a"), range_end=self.key(b"b"), kind=aetcd.EventKind.PUT))
        deletions = self.watching(self.client.watch_prefix(self.prefix, kind=aetcd.EventKind.DELETE, progress_notify=True))
        async with one as of_one, all_ as of_all, some as of_some, deletions as of_deletions:
            base = await self.put(b"a", b"1")
            await self.put(b"b", b"2")
            await self.put(b"a", b"3")
            await self.client.delete_prefix(self.prefix)
            self.assertEqual(await of_one(3, base), ["PUT a=1@0", "PUT a=3@2", "DELETE a@3"])
            self.assertEqual(await of_some(2, base), ["PUT a=1@0", "PUT a=3@2"])
            self.assertEqual(await of_deletions(2, base), ["DELETE a@3", "DELETE b@3"])
            self.assertEqual(
                await of_all(5, base),
                ["PUT a=1@0", "PUT b=2@1", "PUT a=3@2 (was 1)", "DELETE a@3 (was 3)", "DELETE b@3 (was 2)"],
            )
        async with self.watching(self.client.watch_prefix(self.prefix, start_revision=base + 1)) as past:
            self.assertEqual(await past(4, base), ["PUT b=2@1", "PUT a=3@2", "DELETE a@3", "DELETE b@3"])

    async def test_callbacks(self):
        """What the client's own watches are made of: one stream with several of them."""
        watcher = aetcd.watcher.Watcher(rpc.WatchStub(self.client.channel), timeout=PATIENCE)
        of_one, of_all = asyncio.Queue(), asyncio.Queue()

        async def told(queue, base):
            event = await asyncio.wait_for(queue.get(), PATIENCE)
            return event.kind, event.kv.mod_revision - base, event.prev_kv and event.prev_kv.value

        one = await watcher.add_callback(self.key(b"a"), of_one.put, prev_kv=True, watch_id=7, fragment=True)
        end = self.prefix[:-1] + b"0"
        other = await watcher.add_callback(self.prefix, of_all.put, range_end=end, kind=aetcd.EventKind.DELETE)
        self.assertNotEqual(one.watch_id, other.watch_id)
        base = await self.put(b"a", b"1")
        await self.put(b"a", b"2")
        await self.client.delete(self.key(b"a"))
        seen = [await told(of_one, base) for _ in range(3)]
        self.assertEqual(seen, [("PUT", 0, b""), ("PUT", 1, b"1"), ("DELETE", 2, b"2")])
        self.assertEqual(await told(of_all, base), ("DELETE", 2, None))
        await watcher.cancel(one.watch_id)
        await self.put(b"a", b"3")
        await self.client.delete(self.key(b"a"))
        self.assertEqual(await told(of_all, base), ("DELETE", 4, None))
        self.assertTrue(of_one.empty())
        # Whoever still listens is told of the end.
        await watcher.shutdown()
        self.assertIsNone(await asyncio.wait_for(of_all.get(), PATIENCE))
        self.assertTrue(of_one.empty())

    async def test_one_event(self):
        base = await self.put(b"a", b"1")
        event = await self.client.watch_once(self.key(b"a"), timeout=PATIENCE, start_revision=base)
        self.assertEqual((event.kind, event.kv.value, event.kv.mod_revision), ("PUT", b"1", base))
        event = await self.client.watch_prefix_once(self.prefix, timeout=PATIENCE, start_revision=base)
        self.assertEqual(event.kv.key, self.key(b"a"))
        with self.assertRaises(aetcd.WatchTimeoutError):
            await self.client.watch_once(self.key(b"absent"), timeout=0.2)

    async def test_a_revision_larger_than_a_put_may_be(self):
        for i in range(5):
            await self.put(b"%d" % i, b"x" * 1_000_000)
        # What it does not ask for, though it could be told to, is to get them in pieces.
        unlimited = await self.enterAsyncContext(client(addresses("ETCD_MEMBER")[0], options={"grpc.max_receive_message_length": -1}))
        watch = await unlimited.watch_prefix(self.prefix, prev_kv=True)
        await self.client.delete_prefix(self.prefix)
        events = watch.__aiter__()
        for i in range(5):
            event = await asyncio.wait_for(anext(events), PATIENCE)
            self.assertEqual((event.kind, event.kv.key, len(event.prev_kv.value)), ("DELETE", self.key(b"%d" % i), 1_000_000))
        await watch.cancel()


class Leases(Member):
    async def test_life_of_a_lease(self):
        lease = await self.client.lease(600, lease_id=778899)
        self.assertEqual((lease.id, lease.ttl), (778899, 600))
        with self.assertRaises(aetcd.DuplicateLeaseError):
            await self.client.lease(600, lease_id=778899)
        await self.put(b"a", b"1", lease=lease)
        await self.put(b"b", b"2", lease=lease.id)
        self.assertEqual((await self.client.get(self.key(b"a"))).lease, lease.id)
        info = await self.client.get_lease_info(lease.id)
        self.assertEqual(sorted(info.keys), [self.key(b"a"), self.key(b"b")])
        self.assertEqual(info.grantedTTL, 600)
        self.assertGreater(await lease.remaining_ttl(), 500)
        self.assertEqual(await lease.granted_ttl(), 600)
        self.assertEqual(sorted(await lease.keys()), [self.key(b"a"), self.key(b"b")])
        self.assertEqual((await lease.refresh()).TTL, 600)
        await lease.revoke()
        self.assertIsNone(await self.value(b"a"))
        self.assertEqual((await self.client.get_lease_info(lease.id)).TTL, -1)
        self.assertEqual((await self.client.refresh_lease(lease.id)).TTL, 0)
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: requested lease not found$"):
            await self.client.revoke_lease(lease.id)

    async def test_keys_go_with_a_lease_that_nobody_renews(self):
        lease = await self.client.lease(1)
        self.assertEqual(lease.ttl, 2)
        async with self.watching(self.client.watch_prefix(self.prefix)) as events:
            begun = time.monotonic()
            base = await self.put(b"a", b"1", lease=lease)
            self.assertEqual(await events(2, base), ["PUT a=1@0", "DELETE a@1"])
            self.assertGreater(time.monotonic() - begun, 1.5)

    async def test_locks(self):
        one, two = self.client.lock(self.key(b"lock"), ttl=60), self.client.lock(self.key(b"lock"), ttl=60)
        self.assertTrue(await one.acquire())
        self.assertTrue(await one.is_acquired())
        self.assertFalse(await two.acquire(timeout=0))
        self.assertFalse(await two.is_acquired())
        self.assertEqual((await one.refresh()).TTL, 60)
        waiting = asyncio.create_task(two.acquire(timeout=PATIENCE))
        self.assertTrue(await one.release())
        self.assertTrue(await waiting)
        self.assertFalse(await one.release())
        # Who holds it loses it with the lease.
        await two.lease.revoke()
        self.assertFalse(await two.is_acquired())
        async with self.client.lock(self.key(b"lock")) as held:
            self.assertTrue(await held.is_acquired())
        self.assertIsNone(await self.value(b"lock"))

    async def test_locks_exclude(self):
        inside = entered = 0

        async def work():
            nonlocal inside, entered
            for _ in range(3):
                async with self.client.lock(self.key(b"lock")):
                    inside += 1
                    await self.client.get(self.key(b"lock"))
                    self.assertEqual(inside, 1)
                    inside -= 1
                    entered += 1

        await asyncio.gather(*(work() for _ in range(3)))
        self.assertEqual(entered, 9)


class Maintenance(Member):
    async def test_status_and_hash(self):
        await self.put(b"key", b"value")
        status = await self.client.status()
        self.assertRegex(status.version, r"^3\.\d+\.\d+$")
        self.assertGreater(status.db_size, 0)
        self.assertGreater(status.raft_index, 0)
        self.assertGreater(status.raft_term, 0)
        members = [member async for member in self.client.members()]
        self.assertEqual([member.id for member in members], [status.leader.id])
        self.assertEqual(members[0].client_urls, [f"http://{os.environ['ETCD_MEMBER']}"])
        self.assertGreater(await self.client.hash(), 0)
        await self.client.defragment()
        self.assertEqual(await self.value(b"key"), b"value")

    async def test_alarms(self):
        [member] = [member async for member in self.client.members()]
        self.assertIn(str(member.id), str(member))
        for member_id in (0, member.id):
            raised = await self.client.create_alarm(member_id)
            self.assertEqual([(alarm.alarm_type, alarm.member_id) for alarm in raised], [(rpc.NOSPACE, member_id)])
            try:
                with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: mvcc: database space exceeded$"):
                    await self.put(b"key", b"value")
                for answer in (self.client.list_alarms(), self.client.list_alarms(member_id, "no space")):
                    self.assertEqual([(alarm.alarm_type, alarm.member_id) async for alarm in answer], [(rpc.NOSPACE, member_id)])
                # The library awaits a generator there: what it would give is seen above.
                with self.assertRaises(TypeError):
                    await member.active_alarms()
            finally:
                disarmed = await self.client.disarm_alarm(member_id)
            self.assertEqual([alarm.member_id for alarm in disarmed], [member_id])
            self.assertEqual([alarm async for alarm in self.client.list_alarms()], [])
        await self.put(b"key", b"value")

    async def test_snapshot(self):
        await self.put(b"key", b"a value that is looked for")
        with io.BytesIO() as file:
            await self.client.snapshot(file)
            content = file.getvalue()
        self.assertEqual(len(content) % 4096, hashlib.sha256().digest_size)
        self.assertEqual(hashlib.sha256(content[:-32]).digest(), content[-32:])
        self.assertIn(b"a value that is looked for", content)


class Cluster(unittest.IsolatedAsyncioTestCase):
    async def test_all_members_tell_the_same(self):
        each = [await self.enterAsyncContext(client(address)) for address in addresses("ETCD_CLUSTER")]
        watch = await each[2].watch(b"python/cluster")
        written = await each[0].put(b"python/cluster", b"1")
        for one in each:
            got = await one.get(b"python/cluster")
            self.assertEqual((got.value, got.mod_revision), (b"1", written.header.revision))
        event = await asyncio.wait_for(anext(watch.__aiter__()), PATIENCE)
        self.assertEqual(event.kv.mod_revision, written.header.revision)
        leaders = {(await one.status()).leader.id for one in each}
        self.assertEqual(len(leaders), 1)
        await watch.cancel()

    async def test_members_come_and_go(self):
        first = await self.enterAsyncContext(client(addresses("ETCD_CLUSTER")[0]))
        # The leader: a change that comes to it before it has applied the one before is dropped, and its client waits.
        [url] = (await first.status()).leader.client_urls
        host, port = url.removeprefix("http://").split(":")
        one = await self.enterAsyncContext(client((host, int(port))))
        before = {member.id async for member in one.members()}
        self.assertEqual(len(before), 3)
        begun = time.monotonic()
        while True:
            try:
                added = await one.add_member(["http://127.0.0.1:1"])
                break
            except aetcd.ClientError as error:
                # Members must have known each other for a while before they let others in.
                if "unhealthy cluster" not in str(error) or time.monotonic() - begun > PATIENCE:
                    raise
            await asyncio.sleep(0.05)
        self.assertNotIn(added.id, before)
        await added.update(["http://127.0.0.1:3"])
        await one.update_member(added.id, ["http://127.0.0.1:2"])
        urls = {member.id: member.peer_urls async for member in one.members()}
        self.assertEqual(urls[added.id], ["http://127.0.0.1:2"])
        await added.remove()
        self.assertEqual({member.id async for member in one.members()}, before)
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: member not found$"):
            await one.remove_member(added.id)
        with self.assertRaisesRegex(aetcd.ClientError, "^etcdserver: member not found$"):
            await one.update_member(added.id, ["http://127.0.0.1:2"])


class Authentication(unittest.IsolatedAsyncioTestCase):
    async def test_users_see_what_they_may(self):
        """The client logs in by itself; what administers users is reached through its stubs."""
        address = addresses("ETCD_AUTH_MEMBER")[0]
        anonymous = await self.enterAsyncContext(client(address))
        auth = rpc.AuthStub(anonymous.channel)
        with self.assertRaisesRegex(aetcd.PreconditionFailedError, "^etcdserver: authentication is not enabled$"):
            await client(address, username="root", password="root's password").connect()
        for name in ("root", "alice"):
            await auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=f"{name}'s password"))
            await auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        read = rpc.Permission(permType=rpc.Permission.READ, key=b"shared/", range_end=b"shared0")
        await auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="alice", perm=read))
        await auth.AuthEnable(rpc.AuthEnableRequest())

        root = await self.enterAsyncContext(client(address, username="root", password="root's password"))
        try:
            with self.assertRaisesRegex(aetcd.InvalidArgumentError, "^etcdserver: user name is empty$"):
                await anonymous.get(b"shared/key")
            with self.assertRaisesRegex(aetcd.InvalidArgumentError, "^etcdserver: authentication failed, invalid user ID or password$"):
                await client(address, username="alice", password="wrong").connect()
            await root.put(b"shared/key", b"root's")
            alice = await self.enterAsyncContext(client(address, username="alice", password="alice's password"))
            self.assertEqual((await alice.get(b"shared/key")).value, b"root's")
            self.assertEqual((await alice.get_prefix(b"shared/")).count, 1)
            for refused in (
                alice.put(b"shared/key", b"alice's"),
                alice.delete(b"shared/key"),
                alice.get(b"elsewhere"),
                alice.get_all(),
                alice.defragment(),
            ):
                with self.assertRaisesRegex(aetcd.ClientError, "permission denied$"):
                    await refused
            stranger = await self.enterAsyncContext(client(address))
            stranger.metadata = (("token", "nobody's"),)
            with self.assertRaisesRegex(aetcd.exceptions.UnauthenticatedError, "^etcdserver: invalid auth token$"):
                await stranger.get(b"shared/key")
            event = await alice.watch_once(b"shared/key", timeout=PATIENCE, start_revision=(await alice.get(b"shared/key")).mod_revision)
            self.assertEqual(event.kv.value, b"root's")
            await rpc.AuthStub(root.channel).UserDelete(rpc.AuthUserDeleteRequest(name="alice"), metadata=root.metadata)
            with self.assertRaises(aetcd.ClientError):
                await client(address, username="alice", password="alice's password").connect()
        finally:
            await rpc.AuthStub(root.channel).AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
        self.assertEqual((await anonymous.get(b"shared/key")).value, b"root's")


class Secure(unittest.IsolatedAsyncioTestCase):
    """The client makes a plain channel and takes no certificates: it is given a channel with TLS in its place."""

    def read(self, name):
        with open(os.path.join(os.environ["ETCD_CERTIFICATES"], name), "rb") as file:
            return file.read()

    async def connected(self, credentials):
        def channel(target, options):
            return rpc.secure_channel(target, credentials, options=list(options))

        with unittest.mock.patch.object(rpc, "insecure_channel", channel):
            one = client(addresses("ETCD_TLS_MEMBER")[0])
            await one.connect()
        self.addAsyncCleanup(one.close)
        return one

    def with_certificate(self, name):
        return grpc.ssl_channel_credentials(self.read("ca.crt"), self.read(f"{name}.key"), self.read(f"{name}.crt"))

    async def test_a_certificate_is_needed(self):
        for credentials in (
            grpc.ssl_channel_credentials(self.read("ca.crt")),
            self.with_certificate("stranger"),
            grpc.ssl_channel_credentials(None, self.read("root.key"), self.read("root.crt")),
        ):
            refused = await self.connected(credentials)
            with self.assertRaises(aetcd.ConnectionFailedError):
                await refused.put(b"python/tls", b"refused")
        plain = await self.enterAsyncContext(client(addresses("ETCD_TLS_MEMBER")[0]))
        with self.assertRaises(aetcd.ConnectionFailedError):
            await plain.put(b"python/tls", b"refused")

        one, other = await self.connected(self.with_certificate("root")), await self.connected(self.with_certificate("alice"))
        self.assertIsNone(await one.get(b"python/tls"))
        watch = await other.watch(b"python/tls")
        lease = await one.lease(600)
        written = await one.put(b"python/tls", b"1", lease=lease)
        event = await asyncio.wait_for(anext(watch.__aiter__()), PATIENCE)
        self.assertEqual((event.kv.value, event.kv.mod_revision), (b"1", written.header.revision))
        self.assertEqual((await lease.refresh()).TTL, 600)
        self.assertTrue(await other.replace(b"python/tls", b"1", b"2"))
        self.assertEqual((await one.get(b"python/tls")).value, b"2")
        with io.BytesIO() as file:
            await one.snapshot(file)
            self.assertEqual(hashlib.sha256(file.getvalue()[:-32]).digest(), file.getvalue()[-32:])
        [member] = [member async for member in one.members()]
        self.assertEqual(member.client_urls, [f"https://{os.environ['ETCD_TLS_MEMBER']}"])
        # A key has the lease of its last put: none.
        await lease.revoke()
        self.assertEqual((await other.delete(b"python/tls", prev_kv=True)).prev_kv.value, b"2")
        await watch.cancel()

    async def test_users_by_certificate(self):
        root, alice = await self.connected(self.with_certificate("root")), await self.connected(self.with_certificate("alice"))
        auth = rpc.AuthStub(root.channel)
        for name in ("root", "alice"):
            await auth.UserAdd(rpc.AuthUserAddRequest(name=name, options=rpc.UserAddOptions(no_password=True)))
            await auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        read = rpc.Permission(permType=rpc.Permission.READ, key=b"shared/", range_end=b"shared0")
        await auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="alice", perm=read))
        await auth.AuthEnable(rpc.AuthEnableRequest())
        try:
            await root.put(b"shared/key", b"root's")
            self.assertEqual((await alice.get(b"shared/key")).value, b"root's")
            with self.assertRaisesRegex(aetcd.ClientError, "permission denied$"):
                await alice.put(b"shared/key", b"alice's")
            with self.assertRaisesRegex(aetcd.ClientError, "permission denied$"):
                await alice.get_all()
        finally:
            await auth.AuthDisable(rpc.AuthDisableRequest())
        await alice.put(b"shared/key", b"anybody's")


if __name__ == "__main__":
    unittest.main()
