// If the cache fails, the request still reaches the upstream and the response still reaches the client.

import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { assertProxyError } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { DIGEST_AT, decodeEntry, encodeEntry, HEAD_AT, VERSION_AT } from "../../testkit/entry.mjs";
import { chatRequest, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
const proxy = await worker({ vars: VARS });
const limited = await worker({ vars: { ...VARS, TIMEOUT: "1" } });
const NEVER = new Promise(() => {});
const ask = (proxy, content = "Hi", headers = {}) =>
  send(proxy.origin, chatRequest(content, { headers, model: "gpt-4o" }));

// The reply is the upstream's n-th response, complete.
function assertResponse(reply, n) {
  assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
  assert.equal(reply.body.toString(), resultText(`answer-${n}`));
  assert.equal(upstream.calls.length, n, "calls upstream");
}

const faulty = await worker({ vars: VARS, store: "faulty-kv" });
describe("a failing store", () => {
  const proxy = faulty;
  beforeEach(async () => {
    proxy.openGates();
    await proxy.clear();
  });

  test("the store works while no fault is injected", async () => {
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    assert.equal(xCacheStatusOf(await ask(proxy)), "HIT");
  });

  test("a read that never ends is a miss after STORE_TIMEOUT_MS", async () => {
    const limited = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "faulty-kv" });
    await limited.settled(() => ask(limited));
    limited.gate("get", NEVER);
    const reply = await limited.settled(() => ask(limited));
    assertResponse(reply, 2);
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(detailOf(reply), "store-timeout");
  });

  test("a read that fails is a miss", async () => {
    await proxy.settled(() => ask(proxy));
    proxy.gate("get", "fail");
    const reply = await proxy.settled(() => ask(proxy));
    assertResponse(reply, 2);
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(detailOf(reply), "store-error");
  });

  test("only-if-cached is 504 if the store cannot be read", async () => {
    proxy.gate("get", "fail");
    const reply = await proxy.settled(() => ask(proxy, "Hi", { "cache-control": "only-if-cached" }));
    assert.equal(reply.status, 504);
    assertProxyError(reply, "only_if_cached");
  });

  test("a failed write does not affect the response", async () => {
    proxy.gate("put", "fail");
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    assert.deepEqual(await proxy.entries(), []);
    assertResponse(await proxy.settled(() => ask(proxy)), 2);
  });

  test("a write that never ends delays no response", async () => {
    for (const n of [1, 2]) {
      const writing = proxy.gate("put", NEVER);
      assertResponse(await ask(proxy), n);
      await withTimeout(writing, "the Worker to write");
    }
  });

  test("the client has its whole response before anything is written", async () => {
    let release;
    const writing = proxy.gate("put", new Promise((resolve) => (release = resolve)));
    await proxy.settled(async () => {
      assertResponse(await ask(proxy), 1);
      await withTimeout(writing, "the Worker to write");
      assert.deepEqual(await proxy.entries(), []);
      release("pass");
    });
    assert.equal((await proxy.entries()).length, 1);
    proxy.openGates();
    assert.equal(xCacheStatusOf(await ask(proxy)), "HIT");
  });

  test("without reads and writes the Worker is a plain proxy", async () => {
    proxy.gate("get", "fail");
    proxy.gate("put", "fail");
    for (const n of [1, 2, 3]) assertResponse(await proxy.settled(() => ask(proxy)), n);
  });
});

test("without a store every request is forwarded", async () => {
  const proxy = await worker({ vars: VARS, store: "none" });
  for (const n of [1, 2]) {
    const reply = await proxy.settled(() => ask(proxy));
    assertResponse(reply, n);
    assert.equal(detailOf(reply), "store-missing");
  }
});

test("RESPOND_WITH_CACHE=false still stores, and the entry can be served later", async () => {
  const proxy = await worker({ vars: { ...VARS, RESPOND_WITH_CACHE: "false" } });
  assertResponse(await proxy.settled(() => ask(proxy)), 1);
  const [[key, bytes]] = await proxy.entries();
  const reader = await worker({ vars: VARS });
  await reader.clear();
  await reader.kv.put(key, bytes);
  const reply = await reader.settled(() => ask(reader));
  assert.equal(xCacheStatusOf(reply), "HIT");
  assertResponse(reply, 1);
});

describe("a damaged entry is a miss and is replaced", () => {
  const flip =
    (at, bit = 1) =>
    (bytes) => {
      const copy = Buffer.from(bytes);
      copy[at < 0 ? copy.length + at : at] ^= bit;
      return copy;
    };
  // The digest is right: only the content is wrong.
  const withHead = (edit) => (bytes) => {
    const entry = decodeEntry(bytes);
    return encodeEntry({ ...entry, head: edit(entry.head) });
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
    "with a head that is not an object": withHead(() => [1, 2]),
    "with a head without a status": withHead(({ status, ...head }) => head),
    "with an invalid status": withHead((head) => ({ ...head, status: 99999 })),
    "with a status below 200": withHead((head) => ({ ...head, status: 101 })),
    "of another key": withHead((head) => ({ ...head, key: "0".repeat(64) })),
    "without a key": withHead(({ key, ...head }) => head),
    "with text for a time": withHead((head) => ({ ...head, stored_at: "yesterday" })),
  };
  for (const [name, damage] of Object.entries(damages)) {
    test(name, async () => {
      await proxy.clear();
      assertResponse(await proxy.settled(() => ask(proxy)), 1);
      const [[key, bytes]] = await proxy.entries();
      await proxy.kv.put(key, damage(bytes));
      const reply = await proxy.settled(() => ask(proxy));
      assertResponse(reply, 2);
      assert.equal(xCacheStatusOf(reply), "MISS");
      assert.equal(detailOf(reply), "entry-corrupt");
      const again = await proxy.settled(() => ask(proxy));
      assertResponse(again, 2);
      assert.equal(xCacheStatusOf(again), "HIT", "the damaged entry was not replaced");
    });
  }

  test("the value of another key", async () => {
    await proxy.clear();
    await proxy.settled(() => ask(proxy, "one"));
    const [[one]] = await proxy.entries();
    await proxy.settled(() => ask(proxy, "two"));
    const other = (await proxy.entries()).find(([key]) => key !== one)[1];
    await proxy.kv.put(one, other);
    for (const [n, status] of [
      [3, "MISS"],
      [3, "HIT"],
    ]) {
      // From the second time on this is the fast path.
      const reply = await proxy.settled(() => ask(proxy, "one"));
      assertResponse(reply, n);
      assert.equal(xCacheStatusOf(reply), status);
      assert.equal(detailOf(reply), status === "MISS" ? "entry-corrupt" : null);
    }
    await proxy.kv.put(one, other);
    const fast = await proxy.settled(() => ask(proxy, "one"));
    assertResponse(fast, 4);
    assert.equal(detailOf(fast), "entry-corrupt");
  });

  for (const header of [
    ["bad name\n", "x"],
    ["x-a", "a\r\nset-cookie: b=1"],
  ]) {
    test(`an entry with the invalid header ${JSON.stringify(header)} injects nothing`, async () => {
      await proxy.clear();
      await proxy.settled(() => ask(proxy));
      const [[key, bytes]] = await proxy.entries();
      await proxy.kv.put(key, withHead((head) => ({ ...head, headers: [header] }))(bytes));
      const reply = await proxy.settled(() => ask(proxy));
      assertResponse(reply, upstream.calls.length); // the stored response or a new one
      assert.doesNotMatch(JSON.stringify(reply.rawHeaders), /bad name|set-cookie|x-a/i);
    });
  }

  test("the format of an entry is the one defined in testkit/entry.mjs", async () => {
    await proxy.clear();
    upstream.next({
      headers: { "content-type": "application/json", "x-request-id": "req_1" },
      body: '{ "choices" : [ { "text" : "a" } ] }',
    });
    await proxy.settled(() => ask(proxy, "Hi", { "x-proxy-ttl": "60" }));
    const [[key, bytes]] = await proxy.entries();
    const { head, body } = decodeEntry(bytes);
    assert.equal(body.toString(), '{ "choices" : [ { "text" : "a" } ] }');
    assert.equal(head.status, 200);
    assert.equal(head.stream, false);
    assert.equal(head.expires_at - head.stored_at, 60_000);
    assert.equal(new Map(head.headers).get("x-request-id"), "req_1");
    assert.doesNotMatch(key + bytes.toString("latin1"), /sk-test/, "a credential is at rest");
  });
});

describe("a failing upstream", () => {
  beforeEach(() => Promise.all([proxy.clear(), limited.clear()]));

  test("an upstream that refuses connections is a 502, and the next request succeeds", async () => {
    await upstream.stopListening();
    const reply = await proxy.settled(() => ask(proxy));
    await upstream.listen();
    assert.equal(reply.status, 502);
    assertProxyError(reply, "upstream_unreachable");
    assert.equal(detailOf(reply), "upstream-unreachable");
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
  });

  test("an upstream that closes the connection without a response is a 502", async () => {
    upstream.next((_call, res) => void res.destroy());
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 502);
    assertProxyError(reply, "upstream_unreachable");
    assert.deepEqual(await proxy.entries(), []);
  });

  test("an upstream that does not speak HTTP is a 502", async () => {
    upstream.next((_call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"));
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 502);
    assertProxyError(reply, "upstream_unreachable");
  });

  test("a silent upstream is a 504 after TIMEOUT, and its connection is closed", async () => {
    upstream.next({ hold: NEVER });
    const reply = await limited.settled(() => ask(limited));
    assert.equal(reply.status, 504);
    assertProxyError(reply, "timeout");
    assert.equal(detailOf(reply), "upstream-timeout");
    await withTimeout(upstream.last.disconnected, "the upstream's connection to be closed");
    assert.deepEqual(await limited.entries(), []);
  });

  test("a silent upstream is a 504 for a bypassing request, too", async () => {
    upstream.next({ hold: NEVER });
    const reply = await limited.settled(() => send(limited.origin, { method: "GET", path: "/proxy/models" }));
    assert.equal(reply.status, 504);
    assertProxyError(reply, "timeout");
    assert.equal(detailOf(reply), "upstream-timeout");
  });

  test("TIMEOUT covers the response head only: a slow body is awaited", async () => {
    const slow = controlledStream({ headers: { "content-type": "application/json" } });
    upstream.next(slow.respond, { hold: NEVER });
    const slowReply = ask(limited, "slow");
    await withTimeout(slow.started, "the slow response");
    // The second request is the clock: when it has timed out, the first has waited for longer.
    assert.equal((await ask(limited, "silent")).status, 504);
    await slow.send(resultText("slow"));
    await slow.end();
    assert.equal((await slowReply).body.toString(), resultText("slow"));
  });
});
