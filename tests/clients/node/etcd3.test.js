// etcd3, the client for Node.js, driven through all that it has against running members.
//
// Where the members are is said by the environment (see ../run). Each test has keys of its own; they run one after the other, which
// lets them count revisions.

'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { after, test } = require('node:test');
const cockatiel = require('cockatiel');
const etcd3 = require('etcd3');

// How long anything may take, in milliseconds, that ought to happen soon.
const PATIENCE = 20_000;

const opened = [];
after(() => {
  opened.forEach((client) => client.close());
  // A watch that a failed test left behind would keep the process.
  setTimeout(() => process.exit(process.exitCode || 1), PATIENCE).unref();
});

function variable(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: start the tests with tests/clients/run`);
  return value;
}

function addresses(name, scheme = 'http') {
  return variable(name).split(',').map((address) => `${scheme}://${address}`);
}

function connect(hosts, options = {}) {
  const client = new etcd3.Etcd3({ hosts, dialTimeout: PATIENCE, ...options });
  opened.push(client);
  return client;
}

/** A test with a client of the member that has no others, and a prefix of keys for itself. */
function onMember(name, body) {
  test(name, { timeout: 2 * PATIENCE }, async () => {
    const client = connect(addresses('ETCD_MEMBER'));
    const prefix = `node/${name}/`;
    await body(client, prefix);
    await client.delete().prefix(prefix);
  });
}

async function put(client, key, value) {
  return Number((await client.put(key).value(value)).header.revision);
}

/** A client of the member with TLS, that has this certificate if it is named. */
function connectSecurely(certificate, options = {}) {
  const read = (name) => readFileSync(join(variable('ETCD_CERTIFICATES'), name));
  const credentials = { rootCertificate: read('ca.crt') };
  if (certificate) {
    Object.assign(credentials, { privateKey: read(`${certificate}.key`), certChain: read(`${certificate}.crt`) });
  }
  return connect(addresses('ETCD_TLS_MEMBER', 'https'), { credentials, ...options });
}

// Every request is made once, at once.
const UNGUARDED = { host: () => cockatiel.noop, global: cockatiel.noop };

/** Waits until a condition holds that nothing announces. */
async function becomes(what, condition) {
  const deadline = Date.now() + PATIENCE;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `does not become true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

onMember('puts and gets', async (client, prefix) => {
  const key = `${prefix}key`;
  const first = await put(client, key, 'one');
  const previous = await client.put(key).value('two').getPrevious();
  assert.equal(previous.value.toString(), 'one');
  assert.equal(Number(previous.header.revision), first + 1);
  assert.equal(await client.get(key), 'two');
  assert.equal(await client.get(key).revision(first).string(), 'one');
  assert.equal(await client.get(key).serializable(true).string(), 'two');
  assert.equal(await client.get(`${prefix}absent`), null);
  assert.equal(await client.get(`${prefix}absent`).exists(), false);
  assert.equal(await client.get(key).exists(), true);
  const [kv] = (await client.get(key).exec()).kvs;
  assert.deepEqual([kv.create_revision, kv.mod_revision, kv.version, kv.lease].map(Number), [first, first + 1, 2, 0]);

  await client.put(key).touch();
  assert.equal((await client.get(key).exec()).kvs[0].version, '3');
  assert.equal(await client.get(key), 'two');
  await client.put(key).value(42);
  assert.equal(await client.get(key).number(), 42);
  await client.put(key).value(JSON.stringify({ deep: [1, 2] }));
  assert.deepEqual(await client.get(key).json(), { deep: [1, 2] });
  const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await client.put(Buffer.concat([Buffer.from(prefix), all])).value(all);
  assert.deepEqual(await client.get(Buffer.concat([Buffer.from(prefix), all])).buffer(), all);
});

onMember('ranges', async (client, prefix) => {
  const first = await put(client, `${prefix}b`, '2');
  for (const [name, value] of [['a', '9'], ['c', '5'], ['a', '3'], ['a', '4'], ['b', '6']]) {
    await put(client, prefix + name, value);
  }
  const here = () => client.getAll().prefix(prefix);
  const names = async (range) => (await range.keys()).map((key) => key.slice(prefix.length)).join(' ');
  assert.deepEqual(await here().strings(), { [`${prefix}a`]: '4', [`${prefix}b`]: '6', [`${prefix}c`]: '5' });
  assert.deepEqual(await here().numbers(), { [`${prefix}a`]: 4, [`${prefix}b`]: 6, [`${prefix}c`]: 5 });
  assert.equal(await here().count(), 3);
  assert.equal((await here().keyBuffers()).length, 3);
  assert.deepEqual((await here().buffers())[`${prefix}a`], Buffer.from('4'));
  const orders = { Key: 'a b c', Version: 'c b a', Create: 'b a c', Mod: 'c a b', Value: 'a c b' };
  for (const [target, want] of Object.entries(orders)) {
    assert.equal(await names(here().sort(target, 'Ascend')), want, target);
    assert.equal(await names(here().sort(target, 'Descend')), [...want].reverse().join(''), target);
  }
  const limited = await here().limit(2).exec();
  assert.deepEqual([limited.kvs.length, limited.count, limited.more], [2, '3', true]);
  assert.equal(await names(client.getAll().inRange({ start: `${prefix}a`, end: `${prefix}c` })), 'a b');
  assert.equal(await names(here().minCreateRevision(first + 1)), 'a c');
  assert.equal(await names(here().maxCreateRevision(first + 1)), 'a b');
  assert.equal(await names(here().minModRevision(first + 4)), 'a b');
  assert.equal(await names(here().maxModRevision(first + 4)), 'a c');
  assert.ok((await client.getAll().keys()).includes(`${prefix}a`));
  assert.ok((await client.getAll().all().keys()).includes(`${prefix}a`));
  assert.deepEqual(await here().json(), { [`${prefix}a`]: 4, [`${prefix}b`]: 6, [`${prefix}c`]: 5 });
  assert.equal((await here().keys('hex'))[0], Buffer.from(`${prefix}a`).toString('hex'));
  assert.equal(await client.get(`${prefix}a`).string('hex'), '34');
  assert.equal((await here().strings('hex'))[`${prefix}a`], '34');
  // What the library thinks of ranges is what the member does.
  const [ab, bc, c] = [['a', 'b'], ['b', 'c'], ['c', 'd']].map(([start, end]) => client.range({ start: prefix + start, end: prefix + end }));
  assert.deepEqual([ab.compare(bc), bc.compare(ab), ab.compare(etcd3.Range.prefix(prefix)), ab.compare(c)], [-1, 1, 0, -1]);
  for (const range of [ab, bc, c, etcd3.Range.prefix(prefix)]) {
    const wanted = ['a', 'b', 'c'].filter((name) => range.includes(prefix + name));
    assert.equal(await names(client.getAll().inRange(range)), wanted.join(' '));
  }
});

onMember('deletes', async (client, prefix) => {
  let base;
  for (const name of ['a', 'b', 'c', 'd']) {
    base = await put(client, prefix + name, `value of ${name}`);
  }
  const absent = await client.delete().key(`${prefix}absent`);
  assert.deepEqual([absent.deleted, Number(absent.header.revision)], ['0', base]);
  const [one] = await client.delete().key(`${prefix}a`).getPrevious();
  assert.equal(one.value.toString(), 'value of a');
  const range = await client.delete().inRange({ start: `${prefix}b`, end: `${prefix}d` });
  assert.deepEqual([range.deleted, Number(range.header.revision)], ['2', base + 2]);
  assert.deepEqual(await client.getAll().prefix(prefix).keys(), [`${prefix}d`]);
  assert.equal((await client.delete().range(etcd3.Range.from({ prefix: `${prefix}d` })).exec()).deleted, '1');
  await put(client, `${prefix}e`, 'value of e');
  assert.equal((await client.delete().prefix(prefix)).deleted, '1');
});

onMember('refusals', async (client, prefix) => {
  const key = `${prefix}key`;
  const revision = await put(client, key, 'value');
  await assert.rejects(client.get('').exec(), /etcdserver: key is not provided/);
  await assert.rejects(client.get(key).revision(revision + 1000).exec(), etcd3.GRPCOutOfRangeError);
  await assert.rejects(client.put(key).value('x').lease(4711).exec(), etcd3.EtcdLeaseInvalidError);
  await assert.rejects(client.put(key).value('x'.repeat(1_600_000)).exec(), /etcdserver: request is too large/);
  await client.kv.compact({ revision, physical: true });
  await put(client, key, 'later');
  await assert.rejects(client.get(key).revision(revision - 1).exec(), /etcdserver: mvcc: required revision has been compacted/);
  assert.equal(await client.get(key).revision(revision).string(), 'value');
});

onMember('transactions', async (client, prefix) => {
  const key = `${prefix}key`;
  const created = await put(client, key, 'm');
  const comparisons = [
    ['Value', '==', 'm', true], ['Value', '!=', 'm', false], ['Value', '<', 'n', true], ['Value', '>', 'm', false],
    ['Version', '===', 1, true], ['Create', '==', created, true], ['Mod', '>', created, false], ['Lease', '==', 0, true],
  ];
  for (const [target, operator, value, want] of comparisons) {
    const answer = await client.if(key, target, operator, value).commit();
    assert.equal(answer.succeeded, want, `${target} ${operator} ${value}`);
  }
  const answer = await client
    .if(key, 'Value', '==', 'm')
    .and(`${prefix}absent`, 'Version', '==', 0)
    .then(client.put(`${prefix}new`).value('1'), client.get(key), client.delete().key(key))
    .else(client.put(`${prefix}wrong`).value('branch'))
    .commit();
  assert.equal(answer.succeeded, true);
  assert.equal(Number(answer.header.revision), created + 1);
  assert.equal(answer.responses[1].response_range.kvs[0].value.toString(), 'm');
  assert.equal(answer.responses[2].response_delete_range.deleted, '1');
  const other = await client.if(key, 'Value', '==', 'm').then(client.delete().all()).else(client.get(`${prefix}new`)).commit();
  assert.equal(other.succeeded, false);
  assert.equal(other.responses[0].response_range.kvs[0].value.toString(), '1');
  assert.deepEqual(await client.getAll().prefix(prefix).keys(), [`${prefix}new`]);
  const twice = client.if(key, 'Version', '==', 0).then(client.put(key).value('1'), client.put(key).value('2'));
  await assert.rejects(twice.commit(), /etcdserver: duplicate key given in txn request/);
});

/** Collects what a watcher tells. What is returned waits for so many events, and gives them as texts, revisions counted from a base. */
function listen(watcher, prefix) {
  const told = [];
  watcher.on('put', (kv, previous) => told.push({ kind: 'put', kv, previous }));
  watcher.on('delete', (kv, previous) => told.push({ kind: 'delete', kv, previous }));
  return async (count, base) => {
    await becomes(`${count} events`, () => told.length >= count);
    return told.splice(0, count).map(({ kind, kv, previous }) => {
      const value = kind === 'put' ? `=${kv.value}` : '';
      const was = previous ? ` (was ${previous.value})` : '';
      return `${kind} ${kv.key.toString().slice(prefix.length)}${value}@${Number(kv.mod_revision) - base}${was}`;
    });
  };
}

onMember('watches', async (client, prefix) => {
  const one = await client.watch().key(`${prefix}a`).create();
  const all = await client.watch().prefix(prefix).withPreviousKV().create();
  const puts = await client.watch().inRange({ start: `${prefix}a`, end: `${prefix}b` }).only('put').create();
  const deletes = await client.watch().prefix(prefix).only('delete').create();
  const [ofOne, ofAll, ofPuts, ofDeletes] = [one, all, puts, deletes].map((watcher) => listen(watcher, prefix));
  const base = await put(client, `${prefix}a`, '1');
  await put(client, `${prefix}b`, '2');
  await put(client, `${prefix}a`, '3');
  await client.delete().inRange({ start: `${prefix}a`, end: `${prefix}b\x00` });
  assert.deepEqual(await ofOne(3, base), ['put a=1@0', 'put a=3@2', 'delete a@3']);
  assert.deepEqual(await ofAll(5, base), ['put a=1@0', 'put b=2@1', 'put a=3@2 (was 1)', 'delete a@3 (was 3)', 'delete b@3 (was 2)']);
  assert.deepEqual(await ofPuts(2, base), ['put a=1@0', 'put a=3@2']);
  assert.deepEqual(await ofDeletes(2, base), ['delete a@3', 'delete b@3']);
  const past = client.watch().prefix(prefix).startRevision(String(base + 1)).watcher();
  assert.deepEqual(await listen(past, prefix)(2, base), ['put b=2@1', 'put a=3@2']);

  // The library takes what is to be ignored for what is wanted.
  const ignoring = connect(addresses('ETCD_MEMBER')).watch().prefix(prefix).startRevision(String(base)).ignore('delete');
  const told = [];
  const watcher = ignoring.watcher();
  for (const event of ['connecting', 'connected', 'data']) {
    watcher.on(event, () => told.push(event));
  }
  assert.equal(watcher.id, null);
  assert.deepEqual(await listen(watcher, prefix)(2, base), ['delete a@3', 'delete b@3']);
  assert.deepEqual([...new Set(told)].sort(), ['connected', 'connecting', 'data']);
  assert.match(watcher.id, /^\d+$/);
  // Where it would go on after a lost connection.
  assert.equal(Number(watcher.lastRevision()), base + 4);
  await watcher.cancel();

  // A watcher that ended hears nothing; the others of the stream go on.
  const ended = once(one, 'end');
  await one.cancel();
  await ended;
  await put(client, `${prefix}a`, '4');
  assert.deepEqual(await ofPuts(1, base), ['put a=4@4']);
  assert.equal(one.listenerCount('put'), 1);
  await Promise.all([all, puts, deletes, past].map((watcher) => watcher.cancel()));
});

onMember('watches of what is compacted', async (client, prefix) => {
  const base = await put(client, `${prefix}a`, '1');
  await put(client, `${prefix}a`, '2');
  await client.kv.compact({ revision: base + 1 });
  const watcher = client.watch().key(`${prefix}a`).startRevision(String(base)).watcher();
  const [refused] = await once(watcher, 'error');
  // It does not say why, but that it is over.
  assert.match(refused.message, /^Watcher canceled/);
});

onMember('leases', async (client, prefix) => {
  const lease = client.lease(600, { autoKeepAlive: false });
  const id = await lease.grant();
  await lease.put(`${prefix}a`).value('1');
  await client.put(`${prefix}b`).value('2').lease(id);
  await client.put(`${prefix}b`).value('3').ignoreLease();
  assert.equal((await client.get(`${prefix}b`).exec()).kvs[0].lease, id);
  const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  assert.equal(left.grantedTTL, '600');
  assert.deepEqual(left.keys.map(String).sort(), [`${prefix}a`, `${prefix}b`]);
  assert.equal((await lease.keepaliveOnce()).TTL, '600');
  assert.ok((await client.leaseClient.leaseLeases()).leases.some((each) => each.ID === id));
  await lease.revoke();
  assert.equal(lease.revoked(), true);
  assert.equal(await client.get(`${prefix}a`), null);
  assert.equal((await client.leaseClient.leaseTimeToLive({ ID: id })).TTL, '-1');

  // Renewed by itself, and told when somebody else ends it.
  const kept = client.lease(600);
  const [fired, renewed] = [once(kept, 'keepaliveFired'), once(kept, 'keepaliveSucceeded')];
  const keptId = await kept.grant();
  await once(kept, 'keepaliveEstablished');
  await fired;
  assert.deepEqual([(await renewed)[0].ID, (await renewed)[0].TTL], [keptId, '600']);
  assert.equal(kept.state, 1);
  await client.leaseClient.leaseRevoke({ ID: keptId });
  const lost = once(kept, 'lost');
  await assert.rejects(kept.keepaliveOnce(), etcd3.EtcdLeaseInvalidError);
  const [why] = await lost;
  assert.ok(why instanceof etcd3.EtcdLeaseInvalidError);

  // One that is let go is renewed no more, and lives until its time.
  const alone = client.lease(600);
  const lives = await alone.grant();
  alone.release();
  assert.equal(alone.state, 2);
  assert.ok(Number((await client.leaseClient.leaseTimeToLive({ ID: lives })).TTL) > 500);
  await client.leaseClient.leaseRevoke({ ID: lives });
  const failed = client.lease(1e10);
  assert.match((await once(failed, 'lost'))[0].message, /too large lease TTL/);
  await assert.rejects(failed.grant(), /etcdserver: too large lease TTL/);

  // A lease that nobody renews takes its keys with it.
  const short = client.lease(1, { autoKeepAlive: false });
  const watcher = await client.watch().key(`${prefix}short`).create();
  const gone = once(watcher, 'delete');
  const begun = Date.now();
  await short.put(`${prefix}short`).value('1');
  await gone;
  assert.ok(Date.now() - begun > 1500);
  await watcher.cancel();
});

onMember('locks', async (client, prefix) => {
  const one = await client.lock(`${prefix}lock`).ttl(60).options({ deadline: Date.now() + PATIENCE }).acquire();
  const [kv] = (await client.get(`${prefix}lock`).exec()).kvs;
  assert.equal(kv.lease, await one.leaseId());
  await assert.rejects(client.lock(`${prefix}lock`).acquire(), etcd3.EtcdLockFailedError);
  await one.release();
  const inside = await client.lock(`${prefix}lock`).do(() => client.get(`${prefix}lock`).exists());
  assert.equal(inside, true);
  assert.equal(await client.get(`${prefix}lock`).exists(), false);
});

onMember('elections', async (client, prefix) => {
  const election = client.election?.(`${prefix}e`, 60) ?? new etcd3.Election(client, `${prefix}e`, 60);
  assert.equal(await election.leader(), undefined);
  const observer = await election.observe();
  const changes = [];
  observer.on('change', (leader) => changes.push(leader));
  const one = election.campaign('one');
  const won = once(one, 'elected');
  await one.wait();
  await won;
  assert.equal(await election.leader(), 'one');
  assert.deepEqual(await election.leader('buffer'), Buffer.from('one'));
  const place = await one.getCampaignKey();
  const [standing] = (await client.get(place).exec()).kvs;
  assert.equal(standing.value.toString(), 'one');
  assert.ok(place.endsWith(standing.lease), 'the key is named after its lease');
  await becomes('one is seen', () => changes.at(-1) === 'one');
  await one.proclaim('one again');
  await becomes('one is seen again', () => changes.at(-1) === 'one again');
  const two = election.campaign('two');
  await once(two, '_isWaiting');
  assert.equal(await election.leader(), 'one again');
  const elected = two.wait();
  await one.resign();
  await elected;
  await becomes('two is seen', () => changes.at(-1) === 'two');
  assert.equal(observer.leader(), 'two');
  await assert.rejects(one.proclaim('late'), etcd3.NotCampaigningError);
  assert.equal(observer.hasLeader, true);
  await two.resign();
  await becomes('nobody leads', () => observer.leader() === undefined);
  assert.equal(observer.hasLeader, false);
  // Who loses the lease loses the election, and may still resign.
  const three = election.campaign('three');
  await three.wait();
  await client.leaseClient.leaseRevoke({ ID: (await client.get(await three.getCampaignKey()).exec()).kvs[0].lease });
  await becomes('nobody leads again', () => observer.leader() === undefined);
  await three.resign();
  await observer.cancel();
});

onMember('transactional memory', async (client, prefix) => {
  // SerializableSnapshot, Serializable, RepeatableReads, ReadCommitted
  for (const isolation of [0, 1, 2, 3]) {
    const [from, to] = [`${prefix}${isolation}/from`, `${prefix}${isolation}/to`];
    await put(client, from, '10');
    let attempts = 0;
    await client.stm({ isolation, retries: 3 }).transact(async (memory) => {
      attempts++;
      const before = await memory.get(from);
      if (attempts === 1) {
        // Somebody writes between the read and the commit.
        await put(client, from, '7');
      }
      assert.equal(await memory.get(from), before);
      await memory.put(to).value(before);
      assert.equal(await memory.get(to), before);
      await memory.delete().key(from);
      assert.equal(await memory.get(from), null);
    });
    // Only who reads what is committed does not care.
    const cares = isolation !== 3;
    assert.equal(attempts, cares ? 2 : 1, `attempts at ${isolation}`);
    assert.equal(await client.get(to), cares ? '7' : '10');
    assert.equal(await client.get(from), null);
  }
  const counter = `${prefix}counter`;
  await put(client, counter, '0');
  const increment = () =>
    client.stm({ retries: 1000 }).transact(async (memory) => memory.put(counter).value(1 + (await memory.get(counter).number())));
  await Promise.all(Array.from({ length: 5 }, increment));
  assert.equal(await client.get(counter).number(), 5);
  // Reads that are asked for beforehand are part of the transaction: here at one revision.
  const [left, right] = [`${prefix}left`, `${prefix}right`];
  await client.if(left, 'Version', '==', 0).then(client.put(left).value('1'), client.put(right).value('1')).commit();
  let tries = 0;
  const options = { isolation: 1, retries: 3, prefetch: [left, right], callOptions: { deadline: Date.now() + PATIENCE } };
  const sum = await client.stm(options).transact(async (memory) => {
    tries++;
    const first = await memory.get(left).number();
    if (tries === 1) {
      await client.if(left, 'Version', '>', 0).then(client.put(left).value('2'), client.put(right).value('2')).commit();
    }
    const second = await memory.get(right).number();
    await memory.put(`${prefix}sum`).value(first + second);
    return first + second;
  });
  assert.deepEqual([tries, sum, await client.get(`${prefix}sum`)], [2, 4, '4']);
  const hasty = connect(addresses('ETCD_MEMBER'), { faultHandling: UNGUARDED });
  const late = hasty.stm({ callOptions: { deadline: Date.now() - 1000 } }).transact((memory) => memory.put(`${prefix}late`).value('1'));
  await assert.rejects(late, etcd3.GRPCDeadlineExceededError);
  assert.equal(await client.get(`${prefix}late`), null);

  const hopeless = client.stm({ retries: 0 }).transact(async (memory) => {
    await memory.get(counter);
    await put(client, counter, '9');
    await memory.put(counter).value('lost');
  });
  await assert.rejects(hopeless, etcd3.STMConflictError);
  assert.equal(await client.get(counter), '9');
});

onMember('namespaces', async (client, prefix) => {
  const inside = client.namespace(prefix);
  await inside.put('a').value('1');
  assert.equal(await client.get(`${prefix}a`), '1');
  assert.deepEqual(await inside.getAll().strings(), { a: '1' });
  const watcher = await inside.watch().prefix('').create();
  const seen = once(watcher, 'put');
  await client.put(`${prefix}b`).value('2');
  assert.equal((await seen)[0].key.toString(), 'b');
  await watcher.cancel();
  const answer = await inside.if('a', 'Value', '==', '1').then(inside.put('c').value('3')).commit();
  assert.equal(answer.succeeded, true);
  assert.deepEqual(await inside.namespace('deeper/').getAll().keys(), []);
  await inside.lock('lock').do(async () => assert.equal(await client.get(`${prefix}lock`).exists(), true));
  assert.equal((await inside.delete().all()).deleted, '3');
});

onMember('maintenance', async (client, prefix) => {
  const revision = await put(client, `${prefix}key`, 'a value that is looked for');
  const status = await client.maintenance.status();
  assert.match(status.version, /^3\.\d+\.\d+$/);
  assert.equal(status.leader, status.header.member_id);
  assert.ok(Number(status.dbSize) > 0 && Number(status.raftIndex) > 0 && Number(status.raftTerm) > 0);
  const raised = await client.maintenance.alarm({ action: 'Activate', alarm: 'Nospace', memberID: '0' });
  assert.equal(raised.alarms.length, 1);
  // To a client for this alone: such refusals keep it from asking again for a while, unless it is told otherwise.
  const refused = connect(addresses('ETCD_MEMBER'));
  const insisting = connect(addresses('ETCD_MEMBER'), { faultHandling: UNGUARDED });
  for (let i = 0; i < 5; i++) {
    await assert.rejects(insisting.put(`${prefix}key`).value('x').exec(), (error) => {
      assert.ok(error instanceof etcd3.GRPCResourceExhastedError && etcd3.isRecoverableError(error));
      return /etcdserver: mvcc: database space exceeded/.test(error.message);
    });
  }
  await assert.rejects(refused.put(`${prefix}key`).value('x').exec(), /etcdserver: mvcc: database space exceeded/);
  await client.maintenance.alarm({ action: 'Deactivate', alarm: 'Nospace', memberID: '0' });
  await insisting.put(`${prefix}other`).value('x');
  await assert.rejects(refused.put(`${prefix}other`).value('x').exec(), cockatiel.BrokenCircuitError);
  await assert.rejects(client.maintenance.downgrade({ action: 'VALIDATE', version: '3.1.0' }), /etcdserver: invalid downgrade target version/);
  await assert.rejects(client.maintenance.moveLeader({ targetID: '4711' }), etcd3.GRPCFailedPreconditionError);
  assert.equal((await client.maintenance.alarm({ action: 'Get', alarm: 'None', memberID: '0' })).alarms.length, 0);
  assert.ok((await client.maintenance.hash()).hash > 0);
  await client.maintenance.defragment();
  const stream = await client.maintenance.snapshot();
  const parts = [];
  stream.on('data', (part) => parts.push(part.blob));
  await once(stream, 'end');
  const content = Buffer.concat(parts);
  assert.equal(content.length % 4096, 32);
  assert.ok(content.includes('a value that is looked for'));
  assert.equal(Number((await client.get(`${prefix}key`).exec()).kvs[0].mod_revision), revision);
});

onMember('settings of a client', async (client, prefix) => {
  const [host] = addresses('ETCD_MEMBER');
  const key = `${prefix}key`;
  await client.put(key).value('x'.repeat(100_000));
  const narrow = connect(host, { grpcOptions: { 'grpc.max_receive_message_length': 1024 }, faultHandling: UNGUARDED });
  await assert.rejects(narrow.get(key).exec(), etcd3.GRPCResourceExhastedError);
  assert.equal(await narrow.getAll().prefix(key).count(), 1);

  // Options for every call, by what it is; those of one call go before.
  const calls = [];
  const timed = connect(host, {
    faultHandling: UNGUARDED,
    defaultCallOptions: ({ service, method, isStream, params }) => {
      calls.push([service, method, isStream, params && params.key && params.key.toString()]);
      return isStream ? {} : { deadline: Date.now() + (method === 'put' ? -1000 : PATIENCE) };
    },
  });
  await assert.rejects(timed.put(key).value('late').exec(), etcd3.GRPCDeadlineExceededError);
  await timed.put(key).value('in time').options({ deadline: Date.now() + PATIENCE });
  assert.equal(await timed.get(key), 'in time');
  await assert.rejects(timed.get(key).options({ deadline: Date.now() - 1000 }).exec(), etcd3.GRPCDeadlineExceededError);
  const late = { deadline: Date.now() - 1000 };
  await assert.rejects(timed.delete().key(key).options(late).exec(), etcd3.GRPCDeadlineExceededError);
  await assert.rejects(timed.if(key, 'Version', '>', 0).then(timed.delete().key(key)).options(late).commit(), etcd3.GRPCDeadlineExceededError);
  const watcher = await timed.watch().key(key).create();
  await watcher.cancel();
  assert.deepEqual(calls[0], ['KV', 'put', false, key]);
  assert.ok(calls.some(([service, method, isStream]) => service === 'Watch' && method === 'watch' && isStream));
  assert.equal(await client.get(key), 'in time');

  // Whom to ask again, and how often.
  const retries = cockatiel.retry(cockatiel.handleWhen(etcd3.isRecoverableError), { maxAttempts: 2, backoff: new cockatiel.ConstantBackoff(1) });
  const hosts = [];
  let again = 0;
  retries.onRetry(() => again++);
  const nobody = connect(['http://127.0.0.1:1'], {
    faultHandling: { global: retries, host: (name) => hosts.push(name) && cockatiel.noop, watchBackoff: new cockatiel.ConstantBackoff(1) },
  });
  await assert.rejects(nobody.get(key).exec(), etcd3.GRPCUnavailableError);
  assert.deepEqual([again, hosts], [2, ['http://127.0.0.1:1']]);
  const closed = new etcd3.Etcd3({ hosts: host, faultHandling: UNGUARDED });
  assert.equal(await closed.get(key), 'in time');
  closed.close();
  await assert.rejects(closed.get(key).exec(), etcd3.ClientClosedError);
});

test('kinds of errors', { timeout: PATIENCE }, async () => {
  const client = connect(addresses('ETCD_MEMBER'), { faultHandling: UNGUARDED });
  const key = 'node/kinds of errors';
  const lease = client.lease(600, { autoKeepAlive: false });
  const id = await lease.grant();
  const kinds = [
    [() => client.put('').value('1').exec(), etcd3.GRPCInvalidArgumentError],
    [() => client.get(key).revision('9000000000').exec(), etcd3.GRPCOutOfRangeError],
    [() => client.put(key).ignoreLease().value('1').exec(), etcd3.GRPCInvalidArgumentError],
    [() => client.leaseClient.leaseGrant({ ID: id, TTL: '600' }), etcd3.GRPCFailedPreconditionError],
    [() => client.cluster.memberRemove({ ID: '4711' }), etcd3.GRPCNotFoundError],
    [() => client.auth.authenticate({ name: 'root', password: 'x' }), etcd3.GRPCFailedPreconditionError],
    [() => client.user('absent').roles(), etcd3.EtcdUserNotFoundError],
    [() => client.role('absent').permissions(), etcd3.EtcdRoleNotFoundError],
    [() => client.leaseClient.leaseRevoke({ ID: '4711' }), etcd3.EtcdLeaseInvalidError],
    [() => client.get(key).options({ deadline: Date.now() - 1000 }).exec(), etcd3.GRPCDeadlineExceededError],
  ];
  for (const [ask, kind] of kinds) {
    await assert.rejects(ask, kind);
  }
  await lease.revoke();
  assert.equal((await client.auth.authStatus()).enabled, false);
  assert.equal(await client.get(key), null);
});

test('a cluster', { timeout: 2 * PATIENCE }, async () => {
  const hosts = addresses('ETCD_CLUSTER');
  const all = connect(hosts);
  const each = hosts.map((host) => connect(host));
  const watchers = await Promise.all(each.map((client) => client.watch().key('node/cluster').create()));
  const seen = watchers.map((watcher) => once(watcher, 'put'));
  const revision = await put(all, 'node/cluster', '1');
  for (const [kv] of await Promise.all(seen)) {
    assert.equal(Number(kv.mod_revision), revision);
  }
  for (const client of each) {
    assert.equal(await client.get('node/cluster'), '1');
  }
  const { members } = await all.cluster.memberList({});
  assert.deepEqual(members.map((member) => member.clientURLs[0]).sort(), [...hosts].sort());
  const leaders = await Promise.all(each.map(async (client) => (await client.maintenance.status()).leader));
  assert.equal(new Set(leaders).size, 1);
  await Promise.all(watchers.map((watcher) => watcher.cancel()));

  // One of the hosts is not there: requests find another.
  const limping = connect(['http://127.0.0.1:1', ...hosts]);
  await becomes('a request arrives', () => limping.get('node/cluster').then((value) => value === '1', () => false));
  // The leader: a change that comes to it before it has applied the one before is dropped, and its client waits.
  const states = await Promise.all(each.map((client) => client.maintenance.status()));
  const leader = hosts[states.findIndex((status) => status.leader === status.header.member_id)];
  const changing = connect(leader);
  let added;
  // A new client each time: one that was refused does not ask again for a while.
  await becomes('the members have known each other for long enough', () =>
    connect(leader).cluster.memberAdd({ peerURLs: ['http://127.0.0.1:1'] }).then(
      (answer) => (added = answer.member),
      (error) => {
        assert.match(error.message, /unhealthy cluster/);
        return false;
      },
    ));
  await changing.cluster.memberUpdate({ ID: added.ID, peerURLs: ['http://127.0.0.1:2'] });
  const changed = (await changing.cluster.memberList({})).members;
  assert.deepEqual(changed.find((member) => member.ID === added.ID).peerURLs, ['http://127.0.0.1:2']);
  await changing.cluster.memberRemove({ ID: added.ID });
  const insisting = connect(leader, { faultHandling: UNGUARDED });
  // Not at the URL of before: in the same second it would be the member that is gone for ever.
  const { member: learner } = await insisting.cluster.memberAdd({ peerURLs: ['http://127.0.0.1:3'], isLearner: true });
  assert.equal(learner.isLearner, true);
  await assert.rejects(insisting.cluster.memberPromote({ ID: learner.ID }), /can only promote a learner member which is in sync with leader/);
  await insisting.cluster.memberRemove({ ID: learner.ID });
  assert.equal((await changing.cluster.memberList({})).members.length, 3);
});

test('authentication', { timeout: 2 * PATIENCE }, async () => {
  const hosts = addresses('ETCD_AUTH_MEMBER');
  const anonymous = connect(hosts);
  const login = (username, password) => connect(hosts, { auth: { username, password } });
  await assert.rejects(anonymous.auth.authEnable(), /etcdserver: root user does not exist/);
  await anonymous.user('root').create('root password');
  await anonymous.role('root').create();
  await anonymous.user('root').addRole('root');
  const alice = await anonymous.user('alice').create('alice password');
  await assert.rejects(anonymous.user('alice').create('again'), etcd3.EtcdUserExistsError);
  const reader = await anonymous.role('reader').create();
  await assert.rejects(anonymous.role('reader').create(), etcd3.EtcdRoleExistsError);
  const shared = etcd3.Range.prefix('shared/');
  await reader.grant([{ permission: 'Read', range: shared }, { permission: 'Write', key: 'drop' }]);
  assert.deepEqual(await reader.permissions(), [
    { permission: 'Write', range: etcd3.Range.from('drop') },
    { permission: 'Read', range: shared },
  ]);
  await reader.revoke({ permission: 'Write', key: 'drop' });
  assert.equal((await reader.permissions()).length, 1);
  await alice.addRole(reader);
  assert.deepEqual((await alice.roles()).map((role) => role.name), ['reader']);
  await alice.removeRole('reader');
  await assert.rejects(alice.removeRole('reader'), etcd3.EtcdRoleNotGrantedError);
  await reader.addUser('alice');
  await reader.removeUser(alice);
  assert.deepEqual(await alice.roles(), []);
  await assert.rejects(reader.removeUser('alice'), etcd3.EtcdRoleNotGrantedError);
  await reader.addUser(alice);
  assert.deepEqual((await anonymous.getUsers()).map((user) => user.name), ['alice', 'root']);
  assert.deepEqual((await anonymous.getRoles()).map((role) => role.name), ['reader', 'root']);
  await assert.rejects(anonymous.user('absent').roles(), etcd3.EtcdUserNotFoundError);
  await assert.rejects(anonymous.role('absent').permissions(), etcd3.EtcdRoleNotFoundError);
  await anonymous.auth.authEnable();

  const root = login('root', 'root password');
  try {
    await assert.rejects(anonymous.get('shared/key').exec(), /etcdserver: user name is empty/);
    await assert.rejects(login('alice', 'wrong').get('shared/key').exec(), etcd3.EtcdAuthenticationFailedError);
    const logins = [];
    const callOptions = ({ service, method }) => logins.push(`${service}.${method}`) && { deadline: Date.now() + PATIENCE };
    await connect(hosts, { auth: { username: 'root', password: 'root password', callOptions } }).get('shared/key').exec();
    assert.deepEqual(logins, ['Auth.authenticate']);
    await root.put('shared/key').value("root's");
    const hers = login('alice', 'alice password');
    assert.equal(await hers.get('shared/key'), "root's");
    assert.equal(await hers.getAll().prefix('shared/').count(), 1);
    await assert.rejects(hers.put('shared/key').value('x').exec(), etcd3.EtcdPermissionDeniedError);
    await assert.rejects(hers.getAll().exec(), etcd3.EtcdPermissionDeniedError);
    await assert.rejects(hers.if('elsewhere', 'Version', '==', 0).then(hers.get('shared/key')).commit(), etcd3.EtcdPermissionDeniedError);
    await assert.rejects(hers.getUsers(), etcd3.EtcdPermissionDeniedError);
    const watcher = await hers.watch().key('shared/key').create();
    const seen = once(watcher, 'put');
    await root.put('shared/key').value('again');
    assert.equal((await seen)[0].value.toString(), 'again');
    await watcher.cancel();

    // Tokens are forgotten while authentication is off; the client gets a new one by itself.
    await root.auth.authDisable();
    await anonymous.auth.authEnable();
    assert.equal(await hers.get('shared/key'), 'again');
    await root.user('alice').setPassword('another');
    assert.equal(await login('alice', 'another').get('shared/key'), 'again');
    await root.role('reader').delete();
    await assert.rejects(login('alice', 'another').get('shared/key').exec(), etcd3.EtcdPermissionDeniedError);
    await root.user('alice').delete();
    await assert.rejects(login('alice', 'another').get('shared/key').exec(), etcd3.EtcdAuthenticationFailedError);
  } finally {
    await root.auth.authDisable();
  }
  assert.equal(await anonymous.get('shared/key'), 'again');
});

test('TLS', { timeout: 2 * PATIENCE }, async () => {
  const [host] = addresses('ETCD_TLS_MEMBER', 'https');
  const key = 'node/tls';
  const faultHandling = UNGUARDED;
  const refused = [
    connectSecurely(null, { faultHandling }),
    connectSecurely('stranger', { faultHandling }),
    connect(host, { faultHandling }),
    connect(host.replace('https', 'http'), { faultHandling }),
  ];
  for (const client of refused) {
    await assert.rejects(client.put(key).value('refused').exec(), etcd3.GRPCUnavailableError);
  }

  const [root, alice] = [connectSecurely('root'), connectSecurely('alice')];
  assert.equal(await alice.get(key), null);
  const watcher = await alice.watch().key(key).create();
  const seen = once(watcher, 'put');
  const lease = root.lease(600);
  const renewed = once(lease, 'keepaliveSucceeded');
  await lease.put(key).value('1');
  await renewed;
  assert.equal((await seen)[0].value.toString(), '1');
  await watcher.cancel();
  assert.equal((await alice.if(key, 'Value', '==', '1').then(alice.put(key).value('2').ignoreLease()).commit()).succeeded, true);
  assert.equal(await root.get(key), '2');
  const { members } = await alice.cluster.memberList({});
  assert.deepEqual(members[0].clientURLs, [host]);
  await lease.revoke();
  assert.equal(await alice.get(key), null);

  // Who has a certificate is the user of its common name.
  for (const name of ['root', 'alice']) {
    await root.auth.userAdd({ name, options: { no_password: true } });
    await root.role(name).create();
    await root.user(name).addRole(name);
  }
  await root.role('alice').grant({ permission: 'Read', range: etcd3.Range.prefix('shared/') });
  await root.auth.authEnable();
  try {
    await root.put('shared/key').value("root's");
    assert.equal(await alice.get('shared/key'), "root's");
    await assert.rejects(alice.put('shared/key').value("alice's").exec(), etcd3.EtcdPermissionDeniedError);
    await assert.rejects(alice.getAll().exec(), etcd3.EtcdPermissionDeniedError);
    await root.user('bob').create("bob's password");
    const bob = connectSecurely('root', { auth: { username: 'bob', password: "bob's password" } });
    await assert.rejects(bob.get('shared/key').exec(), etcd3.EtcdPermissionDeniedError);
  } finally {
    await root.auth.authDisable();
  }
  await alice.put('shared/key').value("anybody's");
});
