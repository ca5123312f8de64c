// Whatever breaks in the cache, the request still reaches the upstream and the answer still reaches the client.

import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { send } from "./support/client.mjs";
import { decode, DIGEST_AT, encode, HEAD_AT, VERSION_AT } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
const NEVER = new Promise(() => {});
const ask = (proxy, question = "Hi", more = {}) =>
  send(proxy.origin, {
    path: "/proxy/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...more },
    body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: question }] }),
  });

// The n-th answer of the scripted upstream, in full.
function answered(reply, n) {
  assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
  assert.equal(reply.body.toString(), `{"id":"answer-${n}"}`);
  assert.equal(upstream.calls.length, n, "calls upstream");
}

describe("a store that fails", async () => {
  const proxy = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "gated" });
  beforeEach(async () => {
    proxy.openGates();
    await proxy.clear();
  });

  test("works through the gate as long as it is open", async () => {
    answered(await proxy.settled(() => ask(proxy)), 1);
    assert.equal(expect.cacheStatus(await ask(proxy)), "HIT");
  });

  test("a read that never ends counts as a miss after STORE_TIMEOUT_MS", async () => {
    await proxy.settled(() => ask(proxy));
    proxy.gate("get", NEVER);
    const reply = await proxy.settled(() => ask(proxy));
    answered(reply, 2);
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.equal(expect.detail(reply), "store-timeout");
  });

  test("a read that fails counts as a miss", async () => {
    await proxy.settled(() => ask(proxy));
    proxy.gate("get", "fail");
    const reply = await proxy.settled(() => ask(proxy));
    answered(reply, 2);
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.equal(expect.detail(reply), "store-error");
  });

  test("only-if-cached is 504 while the store cannot tell", async () => {
    proxy.gate("get", "fail");
    const reply = await proxy.settled(() => ask(proxy, "Hi", { "cache-control": "only-if-cached" }));
    assert.equal(reply.status, 504);
    expect.proxyError(reply, "only_if_cached");
  });

  test("a write that fails is nobody's loss", async () => {
    proxy.gate("put", "fail");
    answered(await proxy.settled(() => ask(proxy)), 1);
    assert.deepEqual(await proxy.entries(), []);
    answered(await proxy.settled(() => ask(proxy)), 2);
  });

  test("a write that never ends holds up no answer", async () => {
    for (const n of [1, 2]) {
      const writing = proxy.gate("put", NEVER);
      answered(await ask(proxy), n);
      await within(writing, "the worker to write");
    }
  });

  test("the client has its whole answer before anything is written", async () => {
    let release;
    const writing = proxy.gate("put", new Promise((resolve) => (release = resolve)));
    await proxy.settled(async () => {
      answered(await ask(proxy), 1);
      await within(writing, "the worker to write");
      assert.deepEqual(await proxy.entries(), []);
      release("pass");
    });
    assert.equal((await proxy.entries()).length, 1);
    proxy.openGates();
    assert.equal(expect.cacheStatus(await ask(proxy)), "HIT");
  });

  test("a store that neither reads nor writes leaves a plain proxy", async () => {
    proxy.gate("get", "fail");
    proxy.gate("put", "fail");
    for (const n of [1, 2, 3]) answered(await proxy.settled(() => ask(proxy)), n);
  });
});

test("without a store every question is asked", async () => {
  const proxy = await worker({ vars: VARS, store: "none" });
  for (const n of [1, 2]) {
    const reply = await proxy.settled(() => ask(proxy));
    answered(reply, n);
    assert.equal(expect.detail(reply), "store-missing");
  }
});

test("RESPOND_WITH_CACHE=false still stores, and what it stored can be read later", async () => {
  const proxy = await worker({ vars: { ...VARS, RESPOND_WITH_CACHE: "false" } });
  answered(await proxy.settled(() => ask(proxy)), 1);
  const [[key, bytes]] = await proxy.entries();
  const reader = await worker({ vars: VARS });
  await reader.clear();
  await reader.kv.put(key, bytes);
  const reply = await reader.settled(() => ask(reader));
  assert.equal(expect.cacheStatus(reply), "HIT");
  answered(reply, 1);
});

describe("an entry that is damaged is a miss, and is replaced", async () => {
  const proxy = await worker({ vars: VARS });
  const flip =
    (at, bit = 1) =>
    (bytes) => {
      const copy = Buffer.from(bytes);
      copy[at < 0 ? copy.length + at : at] ^= bit;
      return copy;
    };
  // With a digest that is right: only the meaning is wrong.
  const withHead = (edit) => (bytes) => {
    const entry = decode(bytes);
    return encode({ ...entry, head: edit(entry.head) });
  };
  const damages = {
    empty: () => Buffer.alloc(0),
    "cut inside the magic": (bytes) => bytes.subarray(0, 3),
    "cut inside the digest": (bytes) => bytes.subarray(0, DIGEST_AT + 7),
    "cut before the head": (bytes) => bytes.subarray(0, HEAD_AT),
    "cut inside the head": (bytes) => bytes.subarray(0, HEAD_AT + 10),
    "without its last byte": (bytes) => bytes.subarray(0, -1),
    "with a byte too many": (bytes) => Buffer.concat([bytes, Buffer.from("x")]),
    foreign: () => Buffer.from('{"id":"answer-of-another-program"}'),
    "foreign and long": () => Buffer.alloc(100_000, 0xff),
    "with a flipped bit in the magic": flip(0),
    "of another version": (bytes) => {
      const copy = Buffer.from(bytes);
      copy[VERSION_AT] = 2;
      return copy;
    },
    "with a flipped bit in the head's length": flip(8),
    "with a head longer than the entry": flip(5, 0xff),
    "with a flipped bit in the digest": flip(DIGEST_AT),
    "with a flipped bit in the head": flip(HEAD_AT + 3),
    "with a flipped bit in the body": flip(-2),
    "with a head that is no object": withHead(() => [1, 2]),
    "with a head without a status": withHead(({ status, ...head }) => head),
    "with an impossible status": withHead((head) => ({ ...head, status: 99999 })),
    "with a status below 200": withHead((head) => ({ ...head, status: 101 })),
    "with text for a time": withHead((head) => ({ ...head, stored_at: "yesterday" })),
  };
  for (const [name, damage] of Object.entries(damages)) {
    test(name, async () => {
      await proxy.clear();
      answered(await proxy.settled(() => ask(proxy)), 1);
      const [[key, bytes]] = await proxy.entries();
      await proxy.kv.put(key, damage(bytes));
      const reply = await proxy.settled(() => ask(proxy));
      answered(reply, 2);
      assert.equal(expect.cacheStatus(reply), "MISS");
      assert.equal(expect.detail(reply), "entry-corrupt");
      const again = await proxy.settled(() => ask(proxy));
      answered(again, 2);
      assert.equal(expect.cacheStatus(again), "HIT", "the damaged entry was not replaced");
    });
  }

  for (const header of [
    ["bad name\n", "x"],
    ["x-a", "a\r\nset-cookie: b=1"],
  ]) {
    test(`with the impossible header ${JSON.stringify(header)}: nothing is injected`, async () => {
      await proxy.clear();
      await proxy.settled(() => ask(proxy));
      const [[key, bytes]] = await proxy.entries();
      await proxy.kv.put(key, withHead((head) => ({ ...head, headers: [header] }))(bytes));
      const reply = await proxy.settled(() => ask(proxy));
      answered(reply, upstream.calls.length); // the stored answer or a new one
      assert.doesNotMatch(JSON.stringify(reply.rawHeaders), /bad name|set-cookie|x-a/i);
    });
  }

  test("the format is the one written down here", async () => {
    await proxy.clear();
    upstream.next({ headers: { "content-type": "application/json", "x-request-id": "req_1" }, body: '{ "id" : 1 }' });
    await proxy.settled(() => ask(proxy, "Hi", { "x-proxy-ttl": "60" }));
    const [[key, bytes]] = await proxy.entries();
    const { head, body } = decode(bytes);
    assert.equal(body.toString(), '{ "id" : 1 }');
    assert.equal(head.status, 200);
    assert.equal(head.stream, false);
    assert.equal(head.expires_at - head.stored_at, 60_000);
    assert.equal(new Map(head.headers).get("x-request-id"), "req_1");
    assert.doesNotMatch(key + bytes.toString("latin1"), /sk-test/, "a credential is at rest");
  });
});

describe("an upstream that fails", async () => {
  const proxy = await worker({ vars: { ...VARS, TIMEOUT: "1" } });
  beforeEach(() => proxy.clear());

  test("refuses connections: 502, and the next question is answered", async () => {
    await upstream.refuse();
    const reply = await proxy.settled(() => ask(proxy));
    await upstream.listen();
    assert.equal(reply.status, 502);
    expect.proxyError(reply, "upstream_unreachable");
    assert.equal(expect.detail(reply), "upstream-unreachable");
    answered(await proxy.settled(() => ask(proxy)), 1);
  });

  test("hangs up instead of answering: 502", async () => {
    upstream.next((call, res) => void res.destroy());
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 502);
    expect.proxyError(reply, "upstream_unreachable");
    assert.deepEqual(await proxy.entries(), []);
  });

  test("speaks no HTTP: 502", async () => {
    upstream.next((call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"));
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 502);
    expect.proxyError(reply, "upstream_unreachable");
  });

  test("is silent: 504 after TIMEOUT, and its connection is given up", async () => {
    upstream.next({ hold: NEVER });
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 504);
    expect.proxyError(reply, "timeout");
    assert.equal(expect.detail(reply), "upstream-timeout");
    await within(upstream.last.left, "the upstream's connection to be given up");
    assert.deepEqual(await proxy.entries(), []);
  });

  test("is silent to a request past the cache: 504", async () => {
    upstream.next({ hold: NEVER });
    const reply = await proxy.settled(() => send(proxy.origin, { method: "GET", path: "/proxy/models" }));
    assert.equal(reply.status, 504);
    expect.proxyError(reply, "timeout");
    assert.equal(expect.detail(reply), "upstream-timeout");
  });

  test("TIMEOUT ends with the upstream's head: a slow body is waited for", async () => {
    const slow = commandedStream({ headers: { "content-type": "application/json" } });
    upstream.next(slow.answer, { hold: NEVER });
    const slowReply = ask(proxy, "slow");
    await within(slow.begun, "the slow answer");
    // The second question is the clock: when it has timed out, the first has waited for longer.
    assert.equal((await ask(proxy, "silent")).status, 504);
    await slow.send('{"id":"slow"}');
    await slow.end();
    assert.equal((await slowReply).body.toString(), '{"id":"slow"}');
  });
});
