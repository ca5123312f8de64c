// The in-memory tier in front of the store: never staler than allowed, and bounded.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { cacheStatusOf, detailOf, keyOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatCompletion, chatRequest, result, resultText } from "../../testkit/fixtures.mjs";
import { DETAIL } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
// With coalescing the Durable Object writes the response. The guarantees are the same.
const proxies = await Promise.all(
  ["true", "false"].map((COALESCE) =>
    worker({ vars: { ...VARS, COALESCE, MEMORY_CACHE_BYTES: "1000000", MEMORY_CACHE_TTL: "3600" } }),
  ),
);

let prompts = 0;
const freshPrompt = () => `prompt ${(prompts += 1)}`;
const ask = (proxy, content, options) => proxy.settled(() => send(proxy.origin, chatRequest(content, options)));
const assertHit = (reply, detail) => assert.deepEqual([xCacheStatusOf(reply), detailOf(reply)], ["HIT", detail]);

for (const proxy of proxies) {
  const mode = proxy === proxies[0] ? "with coalescing" : "without coalescing";

  test(`${mode}: a repeat is served without the store, in either mode`, async () => {
    const prompt = freshPrompt();
    upstream.next({ headers: { "x-request-id": "req_1" }, json: chatCompletion("Hello") });
    const first = await ask(proxy, prompt);
    await ask(proxy, prompt);
    await proxy.clear();
    const reply = await ask(proxy, prompt);
    assertHit(reply, DETAIL.memory);
    assert.deepEqual(cacheStatusOf(reply), { hit: true, key: keyOf(reply), detail: DETAIL.memory });
    assert.equal(reply.headers["x-request-id"], "req_1");
    assertSameBytes(reply.body, first.body, "the response");
    const streamed = await ask(proxy, prompt, { stream: true });
    assertHit(streamed, DETAIL.memory);
    assert.match(streamed.body.toString(), /Hello.*data: \[DONE\]/s);
    assert.equal(upstream.calls.length, 1);
  });

  test(`${mode}: an entry's own lifetime is respected`, async () => {
    const prompt = freshPrompt();
    const headers = { "x-proxy-ttl": "1" };
    await ask(proxy, prompt, { headers });
    let reply;
    do reply = await ask(proxy, prompt, { headers });
    while (xCacheStatusOf(reply) === "HIT");
    assert.equal(reply.body.toString(), resultText("answer-2"));
  });

  test(`${mode}: a refresh takes effect at once`, async () => {
    const prompt = freshPrompt();
    await ask(proxy, prompt);
    await ask(proxy, prompt);
    const refreshed = await ask(proxy, prompt, { headers: { "x-proxy-refresh": "true" } });
    assert.equal(refreshed.body.toString(), resultText("answer-2"));
    for (const _ of [1, 2]) {
      const reply = await ask(proxy, prompt);
      assert.equal(xCacheStatusOf(reply), "HIT");
      assert.equal(reply.body.toString(), resultText("answer-2"));
    }
  });

  test(`${mode}: the request's own conditions are respected`, async () => {
    const prompt = freshPrompt();
    await ask(proxy, prompt);
    await ask(proxy, prompt);
    for (const [n, headers] of [
      { "cache-control": "max-age=0" },
      { "cache-control": "no-store" },
      { "x-proxy-ttl": "0" },
    ].entries()) {
      const reply = await ask(proxy, prompt, { headers });
      assert.equal(reply.body.toString(), resultText(`answer-${n + 2}`), JSON.stringify(headers));
    }
    for (const headers of [
      { authorization: "Bearer sk-other" },
      { "x-proxy-namespace": "n" },
      { "openai-organization": "o" },
    ]) {
      assert.equal(xCacheStatusOf(await ask(proxy, prompt, { headers })), "MISS", JSON.stringify(headers));
    }
  });

  test(`${mode}: the tier is bounded and evicts the least recently used entry first`, async () => {
    const body = resultText("x".repeat(50_000));
    upstream.otherwise({ body });
    const favourite = freshPrompt();
    await ask(proxy, favourite);
    await ask(proxy, favourite);
    const others = Array.from({ length: 200 }, freshPrompt); // ten times what it holds
    for (const other of others) {
      await ask(proxy, other);
      await ask(proxy, other);
      assertHit(await ask(proxy, favourite), DETAIL.memory);
    }
    await proxy.clear();
    let held = 0;
    for (const other of others.toReversed().slice(0, 30)) {
      const reply = await ask(proxy, other, { headers: { "cache-control": "only-if-cached" } });
      if (reply.status === 200) held += 1;
    }
    // 1,000,000 bytes hold nineteen of these, the favourite included.
    assert.ok(held > 10 && held < 20, `${held} are held`);
  });

  test(`${mode}: one large response does not evict all others`, async () => {
    const [small, large] = [freshPrompt(), freshPrompt()];
    await ask(proxy, small);
    await ask(proxy, small);
    upstream.next({ json: result("x".repeat(300_000)) });
    for (const _ of [1, 2]) await ask(proxy, large);
    assertHit(await ask(proxy, large), null);
    assertHit(await ask(proxy, small), DETAIL.memory);
  });
}

for (const vars of [{ MEMORY_CACHE_BYTES: "0" }, { MEMORY_CACHE_TTL: "0", MEMORY_CACHE_BYTES: "1000000" }]) {
  test(`with ${JSON.stringify(vars)} the store is read each time`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...vars } });
    const prompt = freshPrompt();
    await ask(proxy, prompt);
    for (const _ of [1, 2]) assertHit(await ask(proxy, prompt), null);
  });
}

test("the store is read again after MEMORY_CACHE_TTL", async () => {
  const proxy = await worker({ vars: { ...VARS, MEMORY_CACHE_BYTES: "1000000", MEMORY_CACHE_TTL: "1" } });
  const prompt = freshPrompt();
  await ask(proxy, prompt);
  await ask(proxy, prompt);
  await proxy.clear();
  let reply;
  do reply = await ask(proxy, prompt);
  while (xCacheStatusOf(reply) === "HIT");
  assert.equal(reply.body.toString(), resultText("answer-2"));
});

for (const COALESCE of ["true", "false"]) {
  test(`a deleted entry is forgotten at once (COALESCE=${COALESCE})`, async () => {
    const vars = { ...VARS, COALESCE, COALESCE_TTL: "60", MEMORY_CACHE_BYTES: "1000000", ADMIN_TOKEN: "operator" };
    const proxy = await worker({ vars });
    const deleteAt = (path) =>
      proxy.settled(() =>
        send(proxy.origin, { method: "DELETE", path, headers: { authorization: "Bearer operator" } }),
      );
    /** @type {Record<string, any[]>} */
    const deletions = {
      "by its key": [(key) => `/admin/cache/${key}`, {}],
      // Coalesced fetches of a namespace last for COALESCE_TTL: with them, this is about the memory alone.
      "by its namespace": [() => "/admin/cache?namespace=n", { "x-proxy-namespace": "n" }],
    };
    for (const [how, [path, headers]] of Object.entries(deletions)) {
      const prompt = freshPrompt();
      const first = await ask(proxy, prompt, { headers });
      await ask(proxy, prompt, { headers });
      assertHit(await ask(proxy, prompt, { headers }), DETAIL.memory);
      const key = keyOf(first);
      const reply = await deleteAt(path(key));
      assert.equal(reply.status, 200, reply.body.toString());
      const again = await ask(proxy, prompt, { headers });
      if (how === "by its namespace" && COALESCE === "true") assert.notEqual(detailOf(again), DETAIL.memory, how);
      else assert.equal(xCacheStatusOf(again), "MISS", how);
    }
  });
}

for (const COALESCE of ["true", "false"]) {
  const vars = { ...VARS, COALESCE, MEMORY_CACHE_BYTES: "1000000", ADMIN_TOKEN: "operator" };
  const remove = (proxy, key) =>
    send(proxy.origin, {
      method: "DELETE",
      path: `/admin/cache/${key}`,
      headers: { authorization: "Bearer operator" },
    });

  for (const [what, newer] of /** @type {any[][]} */ ([
    ["a deletion", (proxy, _prompt, key) => remove(proxy, key)],
    ["a refresh", (proxy, prompt) => ask(proxy, prompt, { headers: { "x-proxy-refresh": "true" } })],
  ])) {
    test(`an entry that is read during ${what} is not held in memory (COALESCE=${COALESCE})`, async () => {
      const proxy = await worker({ vars: { ...vars }, store: "upstash" });
      const prompt = freshPrompt();
      const key = keyOf(await ask(proxy, prompt));
      // As if another isolate had written it: this one's memory no longer has it.
      await proxy.settled(() => remove(proxy, "0".repeat(64)));
      const other = await worker({
        vars: { ...vars, MEMORY_CACHE_TTL: "50" },
        store: "upstash",
      });
      const [[name, bytes]] = await proxy.entries();
      await other.kv.put(name, bytes);
      let release;
      const held = new Promise((resolve) => (release = resolve));
      other.redis.next(async (call, response) => {
        const { json } = await other.redis.respond(call);
        await held;
        response.writeHead(200).end(JSON.stringify(json));
      });
      const reader = ask(other, prompt);
      await other.redis.received(other.redis.calls.length + 1);
      await newer(other, prompt, key);
      release();
      await reader;
      const reply = await ask(other, prompt);
      assert.notEqual(reply.body.toString(), resultText("answer-1"), reply.headers["cache-status"]);
    });
  }

  test(`an entry that is deleted while it is written is not stored (COALESCE=${COALESCE})`, async () => {
    const proxy = await worker({ vars, store: "faulty-kv" });
    const prompt = freshPrompt();
    let release;
    const writing = proxy.gate("put", new Promise((resolve) => (release = resolve)));
    const logged = proxy.lines.length;
    const reply = await send(proxy.origin, chatRequest(prompt));
    await writing;
    assert.equal((await remove(proxy, keyOf(reply))).status, 200);
    release("pass");
    await proxy.logged(logged + 2);
    proxy.openGates();
    assert.deepEqual(await proxy.entries(), []);
    assert.equal(xCacheStatusOf(await ask(proxy, prompt)), "MISS");
  });
}
