// The tier in front of the store: faster, never older than it may be, and bounded.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
// Where flights are on, the answer is written by an object of its own; the promises are the same.
const proxies = await Promise.all(
  ["true", "false"].map((COALESCE) => worker({ vars: { ...VARS, COALESCE, MEMORY_CACHE_BYTES: "1000000" } })),
);

let questions = 0;
const fresh = () => `question ${(questions += 1)}`;
const ask = (proxy, content, { headers, ...more } = {}) =>
  proxy.settled(() =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content }], ...more }),
    }),
  );
const completion = (content) => ({
  id: "c",
  object: "chat.completion",
  created: 1,
  model: "m",
  choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
});
const hit = (reply, detail) => assert.deepEqual([expect.cacheStatus(reply), expect.detail(reply)], ["HIT", detail]);

for (const proxy of proxies) {
  const mode = proxy === proxies[0] ? "with flights" : "without flights";

  test(`${mode}: a repeat is answered without the store, in either mode and spelling`, async () => {
    const question = fresh();
    upstream.next({ headers: { "x-request-id": "req_1" }, json: completion("Hello") });
    const first = await ask(proxy, question);
    await ask(proxy, question);
    await proxy.clear();
    const reply = await ask(proxy, question);
    hit(reply, "memory");
    assert.match(reply.headers["cache-status"], /^reprise; hit; key="[0-9a-f]{64}"; detail=memory$/);
    assert.equal(reply.headers["x-request-id"], "req_1");
    expect.sameBytes(reply.body, first.body, "the answer");
    const streamed = await ask(proxy, question, { stream: true });
    hit(streamed, "memory");
    assert.match(streamed.body.toString(), /Hello[^]*data: \[DONE\]/);
    assert.equal(upstream.calls.length, 1);
  });

  test(`${mode}: an entry's own lifetime counts`, async () => {
    const question = fresh();
    const headers = { "x-proxy-ttl": "1" };
    await ask(proxy, question, { headers });
    let reply;
    do reply = await ask(proxy, question, { headers });
    while (expect.cacheStatus(reply) === "HIT");
    assert.equal(reply.body.toString(), '{"id":"answer-2"}');
  });

  test(`${mode}: a refresh is seen at once`, async () => {
    const question = fresh();
    await ask(proxy, question);
    await ask(proxy, question);
    const refreshed = await ask(proxy, question, { headers: { "x-proxy-refresh": "true" } });
    assert.equal(refreshed.body.toString(), '{"id":"answer-2"}');
    for (const _ of [1, 2]) {
      const reply = await ask(proxy, question);
      assert.equal(expect.cacheStatus(reply), "HIT");
      assert.equal(reply.body.toString(), '{"id":"answer-2"}');
    }
  });

  test(`${mode}: the caller's own conditions count`, async () => {
    const question = fresh();
    await ask(proxy, question);
    await ask(proxy, question);
    for (const [n, headers] of [{ "cache-control": "max-age=0" }, { "cache-control": "no-store" }, { "x-proxy-ttl": "0" }].entries()) {
      const reply = await ask(proxy, question, { headers });
      assert.equal(reply.body.toString(), `{"id":"answer-${n + 2}"}`, JSON.stringify(headers));
    }
    for (const headers of [{ authorization: "Bearer sk-other" }, { "x-proxy-namespace": "n" }, { "openai-organization": "o" }]) {
      assert.equal(expect.cacheStatus(await ask(proxy, question, { headers })), "MISS", JSON.stringify(headers));
    }
  });

  test(`${mode}: bounded, least recently used out first`, async () => {
    const body = JSON.stringify({ id: "x".repeat(50_000) });
    upstream.otherwise({ body });
    const favourite = fresh();
    await ask(proxy, favourite);
    await ask(proxy, favourite);
    const others = Array.from({ length: 200 }, fresh); // ten times what it holds
    for (const other of others) {
      await ask(proxy, other);
      await ask(proxy, other);
      hit(await ask(proxy, favourite), "memory");
    }
    await proxy.clear();
    let kept = 0;
    for (const other of others.toReversed().slice(0, 30)) {
      const reply = await ask(proxy, other, { headers: { "cache-control": "only-if-cached" } });
      if (reply.status === 200) kept += 1;
    }
    // 1,000,000 bytes hold nineteen of these, the favourite among them.
    assert.ok(kept > 10 && kept < 20, `${kept} are kept`);
  });

  test(`${mode}: one answer does not drive out all others`, async () => {
    const [small, large] = [fresh(), fresh()];
    await ask(proxy, small);
    await ask(proxy, small);
    upstream.next({ json: { id: "x".repeat(300_000) } });
    for (const _ of [1, 2]) await ask(proxy, large);
    hit(await ask(proxy, large), null);
    hit(await ask(proxy, small), "memory");
  });
}

for (const vars of [{ MEMORY_CACHE_BYTES: "0" }, { MEMORY_CACHE_TTL: "0", MEMORY_CACHE_BYTES: "1000000" }]) {
  test(`${JSON.stringify(vars)}: the store is asked each time`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...vars } });
    const question = fresh();
    await ask(proxy, question);
    for (const _ of [1, 2]) hit(await ask(proxy, question), null);
  });
}

test("MEMORY_CACHE_TTL: after that the store is asked again", async () => {
  const proxy = await worker({ vars: { ...VARS, MEMORY_CACHE_BYTES: "1000000", MEMORY_CACHE_TTL: "1" } });
  const question = fresh();
  await ask(proxy, question);
  await ask(proxy, question);
  await proxy.clear();
  let reply;
  do reply = await ask(proxy, question);
  while (expect.cacheStatus(reply) === "HIT");
  assert.equal(reply.body.toString(), '{"id":"answer-2"}');
});

for (const COALESCE of ["true", "false"]) {
  test(`what the operator deletes is forgotten at once (COALESCE=${COALESCE})`, async () => {
    const vars = { ...VARS, COALESCE, COALESCE_TTL: "60", MEMORY_CACHE_BYTES: "1000000", ADMIN_TOKEN: "operator" };
    const proxy = await worker({ vars });
    const order = (path) =>
      proxy.settled(() => send(proxy.origin, { method: "DELETE", path, headers: { authorization: "Bearer operator" } }));
    const deletions = {
      "by its key": [(key) => `/admin/cache/${key}`, {}],
      // Flights of a namespace go on for COALESCE_TTL: with them, this is about the memory alone.
      "by its namespace": [() => "/admin/cache?namespace=n", { "x-proxy-namespace": "n" }],
    };
    for (const [how, [path, headers]] of Object.entries(deletions)) {
      const question = fresh();
      const first = await ask(proxy, question, { headers });
      await ask(proxy, question, { headers });
      hit(await ask(proxy, question, { headers }), "memory");
      const [, key] = /key="([0-9a-f]{64})"/.exec(first.headers["cache-status"]);
      const reply = await order(path(key));
      assert.equal(reply.status, 200, reply.body.toString());
      const again = await ask(proxy, question, { headers });
      if (how === "by its namespace" && COALESCE === "true") assert.notEqual(expect.detail(again), "memory", how);
      else assert.equal(expect.cacheStatus(again), "MISS", how);
    }
  });
}

for (const COALESCE of ["true", "false"]) {
  const vars = { ...VARS, COALESCE, MEMORY_CACHE_BYTES: "1000000", ADMIN_TOKEN: "operator" };
  const remove = (proxy, key) =>
    send(proxy.origin, { method: "DELETE", path: `/admin/cache/${key}`, headers: { authorization: "Bearer operator" } });
  const keyOf = (reply) => /key="([0-9a-f]{64})"/.exec(reply.headers["cache-status"])[1];

  for (const [what, newer] of [
    ["a deletion", (proxy, question, key) => remove(proxy, key)],
    ["a refresh", (proxy, question) => ask(proxy, question, { headers: { "x-proxy-refresh": "true" } })],
  ]) {
    test(`what is read while ${what} comes is not remembered (COALESCE=${COALESCE})`, async () => {
      const proxy = await worker({ vars: { ...vars, STORE_TIMEOUT_MS: "20000" }, store: "upstash" });
      const question = fresh();
      const key = keyOf(await ask(proxy, question));
      // Another isolate's writing: this one's memory has it no more.
      await proxy.settled(() => remove(proxy, "0".repeat(64)));
      const other = await worker({ vars: { ...vars, STORE_TIMEOUT_MS: "20000", MEMORY_CACHE_TTL: "50" }, store: "upstash" });
      const [[name, bytes]] = await proxy.entries();
      await other.kv.put(name, bytes);
      let release;
      const held = new Promise((resolve) => (release = resolve));
      other.redis.next(async (call, response) => {
        const said = (await other.redis.serve(call)).json;
        await held;
        response.writeHead(200).end(JSON.stringify(said));
      });
      const reader = ask(other, question);
      await other.redis.asked(other.redis.calls.length + 1);
      await newer(other, question, key);
      release();
      await reader;
      const reply = await ask(other, question);
      assert.notEqual(reply.body.toString(), '{"id":"answer-1"}', reply.headers["cache-status"]);
    });
  }

  test(`what is deleted while it is written is not there afterwards (COALESCE=${COALESCE})`, async () => {
    const proxy = await worker({ vars, store: "gated" });
    const question = fresh();
    let release;
    const writing = proxy.gate("put", new Promise((resolve) => (release = resolve)));
    const logged = proxy.lines.length;
    const reply = await send(proxy.origin, { path: "/proxy/chat/completions", headers: { "content-type": "application/json", authorization: "Bearer sk-test" }, body: JSON.stringify({ model: "m", messages: [{ role: "user", content: question }] }) });
    await writing;
    assert.equal((await remove(proxy, keyOf(reply))).status, 200);
    release("pass");
    await proxy.logged(logged + 2);
    proxy.openGates();
    assert.deepEqual(await proxy.entries(), []);
    assert.equal(expect.cacheStatus(await ask(proxy, question)), "MISS");
  });
}
