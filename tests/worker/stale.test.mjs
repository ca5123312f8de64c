// Staleness, as far as the exchange cases cannot express it: concurrency, and how long a store keeps an entry.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ageEntries } from "../../testkit/entry.mjs";
import { chatRequest, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { deferred, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", CACHE_TTL: "600" };
const chat = (headers = {}) => chatRequest("Hi", { headers, model: "gpt-4o" });
const OLD = resultText("answer-1");

for (const [windows, seconds] of /** @type {any[][]} */ ([
  [{}, 600],
  [{ STALE_IF_ERROR: "3000" }, 3600],
  [{ STALE_WHILE_REVALIDATE: "1400" }, 2000],
  [{ STALE_IF_ERROR: "3000", STALE_WHILE_REVALIDATE: "1400" }, 3600],
])) {
  test(`a store keeps an entry for as long as it may be served: ${JSON.stringify(windows)}`, async () => {
    const kv = await worker({ vars: { ...VARS, ...windows } });
    await kv.clear();
    const requestedAt = Math.floor(Date.now() / 1000);
    await kv.settled(() => send(kv.origin, chat()));
    const { keys } = await kv.kv.list();
    const now = Math.ceil(Date.now() / 1000);
    assert.equal(keys.length, 1);
    const { expiration } = keys[0];
    assert.ok(
      expiration >= requestedAt + seconds && expiration <= now + seconds + 1,
      `${expiration - requestedAt} s in KV`,
    );

    const redis = await worker({ vars: { ...VARS, ...windows }, store: "upstash" });
    await redis.clear();
    await redis.settled(() => send(redis.origin, chat()));
    const [name] = await redis.redis.command("KEYS", "*");
    const left = await redis.redis.command("PTTL", name);
    // Less the time that has passed, and not a second more than needed.
    assert.ok(left > (seconds - 60) * 1000 && left <= seconds * 1000, `${left} ms in Redis`);
  });
}

test("many clients are served the stale response while one revalidation runs", async () => {
  const proxy = await worker({ vars: { ...VARS, STALE_WHILE_REVALIDATE: "300" } });
  await proxy.clear();
  await proxy.settled(() => send(proxy.origin, chat()));
  await ageEntries(proxy, 700);
  const { promise, resolve: release } = deferred();
  upstream.otherwise({ json: result("new"), hold: promise });
  const logged = proxy.lines.length;
  // None waits for the upstream, which responds only when all have been served.
  const replies = await Promise.all(Array.from({ length: 20 }, () => send(proxy.origin, chat())));
  for (const reply of replies) {
    assert.equal(xCacheStatusOf(reply), "UPDATING");
    assert.equal(reply.body.toString(), OLD);
  }
  await upstream.received(2);
  release();
  await proxy.logged(logged + 20);
  assert.equal(upstream.calls.length, 2, "one revalidation");
  const hit = await send(proxy.origin, chat());
  assert.equal(xCacheStatusOf(hit), "HIT");
  assert.equal(hit.body.toString(), resultText("new"));
});

for (const [how, response] of [
  ["fails", { status: 500, json: {} }],
  ["times out", { hold: new Promise(() => {}) }],
  ["pauses for too long", (_call, res) => void res.writeHead(200, { "content-type": "application/json" }).write("{")],
]) {
  test(`a revalidation that ${how} is tried again`, async () => {
    const proxy = await worker({ vars: { ...VARS, STALE_WHILE_REVALIDATE: "300", TIMEOUT: "2", IDLE_TIMEOUT: "2" } });
    await proxy.clear();
    await proxy.settled(() => send(proxy.origin, chat()));
    await ageEntries(proxy, 700);
    upstream.next(response, { json: result("new") });
    for (const calls of [2, 3]) {
      const reply = await proxy.settled(() => send(proxy.origin, chat()));
      assert.equal(xCacheStatusOf(reply), "UPDATING");
      assert.equal(reply.body.toString(), OLD);
      assert.equal(upstream.calls.length, calls);
    }
    assert.equal((await send(proxy.origin, chat())).body.toString(), resultText("new"));
  });
}

test("if a stale response is served on error, the upstream is disconnected", async () => {
  const proxy = await worker({ vars: { ...VARS, STALE_IF_ERROR: "300" } });
  await proxy.clear();
  await proxy.settled(() => send(proxy.origin, chat()));
  await ageEntries(proxy, 700);
  upstream.next((_call, res) => void res.writeHead(500, { "content-type": "text/html" }).write("<html>"));
  const reply = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(xCacheStatusOf(reply), "STALE");
  assert.equal(reply.body.toString(), OLD);
  await withTimeout(upstream.last.disconnected, "the upstream's connection to be closed");
});
