// What the exchange table cannot say about staleness: what happens at the same time, and how long a store keeps an entry.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { send } from "./support/client.mjs";
import { age } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", CACHE_TTL: "600" };
const chat = (headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
  body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] }),
});
const OLD = '{"id":"answer-1"}';

for (const [windows, seconds] of [
  [{}, 600],
  [{ STALE_IF_ERROR: "3000" }, 3600],
  [{ STALE_WHILE_REVALIDATE: "1400" }, 2000],
  [{ STALE_IF_ERROR: "3000", STALE_WHILE_REVALIDATE: "1400" }, 3600],
]) {
  test(`a store keeps an entry for as long as it may be of use: ${JSON.stringify(windows)}`, async () => {
    const kv = await worker({ vars: { ...VARS, ...windows } });
    await kv.clear();
    const asked = Math.floor(Date.now() / 1000);
    await kv.settled(() => send(kv.origin, chat()));
    const { keys } = await kv.kv.list();
    const now = Math.ceil(Date.now() / 1000);
    assert.equal(keys.length, 1);
    const { expiration } = keys[0];
    assert.ok(expiration >= asked + seconds && expiration <= now + seconds + 1, `${expiration - asked} s in KV`);

    const redis = await worker({ vars: { ...VARS, ...windows }, store: "upstash" });
    await redis.clear();
    await redis.settled(() => send(redis.origin, chat()));
    const [name] = await redis.redis.say("KEYS", "*");
    const left = await redis.redis.say("PTTL", name);
    // As old as it is by now, and not a second more than asked for.
    assert.ok(left > (seconds - 60) * 1000 && left <= seconds * 1000, `${left} ms in Redis`);
  });
}

test("many callers have the old answer while one of them has the upstream asked", async () => {
  const proxy = await worker({ vars: { ...VARS, STALE_WHILE_REVALIDATE: "300" } });
  await proxy.clear();
  await proxy.settled(() => send(proxy.origin, chat()));
  await age(proxy, 700);
  let answer;
  upstream.otherwise({ json: { id: "new" }, hold: new Promise((resolve) => (answer = resolve)) });
  const logged = proxy.lines.length;
  // None of them waits for the upstream, which says nothing before they all have their answers.
  const replies = await Promise.all(Array.from({ length: 20 }, () => send(proxy.origin, chat())));
  for (const reply of replies) {
    assert.equal(expect.cacheStatus(reply), "UPDATING");
    assert.equal(reply.body.toString(), OLD);
  }
  await upstream.asked(2);
  answer();
  await proxy.logged(logged + 20);
  assert.equal(upstream.calls.length, 2, "one question, one renewal");
  const hit = await send(proxy.origin, chat());
  assert.equal(expect.cacheStatus(hit), "HIT");
  assert.equal(hit.body.toString(), '{"id":"new"}');
});

for (const [how, said] of [
  ["fails", { status: 500, json: {} }],
  ["does not come in time", { hold: new Promise(() => {}) }],
  ["pauses for too long", (call, res) => void (res.writeHead(200, { "content-type": "application/json" }), res.write("{"))],
]) {
  test(`a renewal that ${how} is no reason not to try again`, async () => {
    const proxy = await worker({ vars: { ...VARS, STALE_WHILE_REVALIDATE: "300", TIMEOUT: "1", IDLE_TIMEOUT: "1" } });
    await proxy.clear();
    await proxy.settled(() => send(proxy.origin, chat()));
    await age(proxy, 700);
    upstream.next(said, { json: { id: "new" } });
    for (const calls of [2, 3]) {
      const reply = await proxy.settled(() => send(proxy.origin, chat()));
      assert.equal(expect.cacheStatus(reply), "UPDATING");
      assert.equal(reply.body.toString(), OLD);
      assert.equal(upstream.calls.length, calls);
    }
    assert.equal((await send(proxy.origin, chat())).body.toString(), '{"id":"new"}');
  });
}

test("an answer that stands in leaves the upstream, which may go on failing as long as it likes", async () => {
  const proxy = await worker({ vars: { ...VARS, STALE_IF_ERROR: "300" } });
  await proxy.clear();
  await proxy.settled(() => send(proxy.origin, chat()));
  await age(proxy, 700);
  upstream.next((call, res) => void (res.writeHead(500, { "content-type": "text/html" }), res.write("<html>")));
  const reply = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(expect.cacheStatus(reply), "STALE");
  assert.equal(reply.body.toString(), OLD);
  await within(upstream.last.left, "the upstream's connection to be given up");
});
