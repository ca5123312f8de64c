// The operator's endpoints, with both stores.

import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { assertProxyError } from "../../testkit/assertions.mjs";
import { detailOf, keyOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatCompletion, chatRequest, result, resultText } from "../../testkit/fixtures.mjs";
import { DETAIL } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { waitFor } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "0",
  ADMIN_TOKEN: "adm",
};
/** @type {(proxy: any, headers?: Record<string, any>) => Promise<any>} */
const ask = (proxy, { content = "Hi", ...headers } = {}) =>
  proxy.settled(() => send(proxy.origin, chatRequest(content, { headers })));

async function admin(proxy, method, path) {
  const reply = await proxy.settled(() =>
    send(proxy.origin, { method, path, headers: { authorization: "Bearer adm" } }),
  );
  assert.equal(reply.status, 200, reply.body.toString());
  return JSON.parse(reply.body.toString());
}

// Deletes a namespace completely: how many entries were deleted, in how many calls.
async function purge(proxy, namespace, more = "") {
  let [deleted, calls, cursor] = [0, 0, ""];
  do {
    const path = `/admin/cache?namespace=${encodeURIComponent(namespace)}&cursor=${encodeURIComponent(cursor)}${more}`;
    const part = await admin(proxy, "DELETE", path);
    assert.deepEqual(Object.keys(part), ["deleted", "cursor"]);
    deleted += part.deleted;
    calls += 1;
    cursor = part.cursor;
  } while (cursor !== null);
  return { deleted, calls };
}

for (const store of ["kv", "upstash"]) {
  describe(`with ${store}`, () => {
    const started = () => worker({ vars: VARS, store });

    test(`a deletion by key removes that entry and no other (${store})`, async () => {
      const proxy = await started();
      await proxy.clear();
      const first = await ask(proxy, { "x-proxy-namespace": "n" });
      await ask(proxy, { content: "other" });
      assert.deepEqual(await admin(proxy, "DELETE", `/admin/cache/${keyOf(first)}`), { deleted: 1, cursor: null });
      assert.deepEqual(await admin(proxy, "DELETE", `/admin/cache/${keyOf(first)}`), { deleted: 0, cursor: null });
      assert.equal((await proxy.entries()).length, 1);
      assert.equal(xCacheStatusOf(await ask(proxy, { "x-proxy-namespace": "n" })), "MISS");
      assert.equal(xCacheStatusOf(await ask(proxy, { content: "other" })), "HIT");
    });

    test(`a deletion by namespace removes it for all clients, and no other (${store})`, async () => {
      const proxy = await started();
      await proxy.clear();
      const namespaces = ["", "a", "ab", "a*", "b+c&d=e", "b c", "ä"];
      for (const namespace of namespaces) {
        for (const authorization of ["Bearer one", "Bearer two"]) {
          await ask(proxy, { authorization, "x-proxy-namespace": Buffer.from(namespace).toString("latin1") });
        }
      }
      let left = 2 * namespaces.length;
      assert.equal((await proxy.entries()).length, left);
      for (const namespace of namespaces) {
        assert.equal((await purge(proxy, namespace)).deleted, 2, namespace);
        assert.equal((await proxy.entries()).length, (left -= 2), namespace);
      }
      assert.deepEqual(await purge(proxy, "nothing"), { deleted: 0, calls: 1 });
    });

    test(`a namespace of any size is deleted in parts that the Workers runtime allows (${store})`, async () => {
      const proxy = await started();
      await proxy.clear();
      const [[name, value]] = await ask(proxy, { "x-proxy-namespace": "big" }).then(() => proxy.entries());
      await ask(proxy, { "x-proxy-namespace": "small" });
      // More entries under names of the same namespace.
      const more = 2499;
      for (let n = 0; n < more; n += 1) {
        await proxy.kv.put(name.slice(0, -8) + n.toString(16).padStart(8, "0"), value);
      }
      const { deleted, calls } = await purge(proxy, "big", store === "kv" ? "&limit=300" : "");
      assert.equal(deleted, more + 1);
      assert.ok(calls > 1, "all of it in one call");
      assert.equal((await proxy.entries()).length, 1);
      assert.equal(xCacheStatusOf(await ask(proxy, { "x-proxy-namespace": "small" })), "HIT");
    });
  });
}

test("a call without limit= deletes no more than the free plan allows", async () => {
  const proxy = await worker({ vars: VARS });
  await proxy.clear();
  for (let n = 0; n < 50; n += 1) await ask(proxy, { content: `${n}`, "x-proxy-namespace": "n" });
  const first = await admin(proxy, "DELETE", "/admin/cache?namespace=n");
  assert.equal(first.deleted, 40);
  assert.equal((await proxy.entries()).length, 10);
  assert.deepEqual(
    await admin(proxy, "DELETE", `/admin/cache?namespace=n&cursor=${encodeURIComponent(first.cursor)}`),
    {
      deleted: 10,
      cursor: null,
    },
  );
});

test("a coalesced fetch forgets a deleted response at once", async () => {
  const proxy = await worker({ vars: { ...VARS, COALESCE_TTL: "60", COALESCE: "true" } });
  await proxy.clear();
  const first = await ask(proxy);
  // The Durable Object still has the response that the store has lost.
  for (const [name] of await proxy.entries()) await proxy.kv.delete(name);
  assert.equal(detailOf(await ask(proxy)), DETAIL.coalescer);
  await admin(proxy, "DELETE", `/admin/cache/${keyOf(first)}`);
  const again = await ask(proxy);
  assert.equal(xCacheStatusOf(again), "MISS");
  assert.equal(again.body.toString(), resultText("answer-2"));
});

test("a response that is in flight when its key is deleted is sent but not stored", async () => {
  const proxy = await worker({ vars: { ...VARS, COALESCE: "true" } });
  await proxy.clear();
  const first = await ask(proxy);
  const release = upstream.holdNext({ json: result("late") });
  const lines = proxy.lines.length;
  const late = send(proxy.origin, chatRequest("Hi", { headers: { "x-proxy-refresh": "true" } }));
  await upstream.received(2);
  await admin(proxy, "DELETE", `/admin/cache/${keyOf(first)}`);
  release();
  assert.equal((await late).body.toString(), resultText("late"));
  await proxy.logged(lines + 2);
  assert.deepEqual(await proxy.entries(), []);
});

test("a deletion that the store refuses is a 502", async () => {
  const proxy = await worker({ vars: VARS, store: "upstash" });
  proxy.redis.otherwise({ status: 500, json: { error: "ERR" } });
  for (const path of ["/admin/cache?namespace=n", `/admin/cache/${"0".repeat(64)}`]) {
    const reply = await proxy.settled(() =>
      send(proxy.origin, { method: "DELETE", path, headers: { authorization: "Bearer adm" } }),
    );
    assert.equal(reply.status, 502);
    assertProxyError(reply, "store_failed");
  }
  proxy.redis.reset();
});

test("the metrics count what this isolate has done", async () => {
  const proxy = await worker({ vars: { ...VARS, CACHE_TTL: "600" } });
  await ask(proxy);
  await ask(proxy);
  await proxy.settled(() => send(proxy.origin, { method: "GET", path: "/proxy/models" }));
  const reply = await proxy.settled(() =>
    send(proxy.origin, { method: "GET", path: "/metrics", headers: { authorization: "Bearer adm" } }),
  );
  assert.match(reply.headers["content-type"], /^text\/plain; version=0\.0\.4/);
  const text = reply.body.toString();
  for (const line of [
    'reprise_requests_total{cache="HIT",status="200"} 1',
    'reprise_requests_total{cache="BYPASS",status="200"} 1',
    'reprise_reasons_total{reason="method"} 1',
  ]) {
    assert.ok(text.split("\n").includes(line), `${line} is not in\n${text}`);
  }
  for (const line of text.trim().split("\n")) {
    assert.match(line, /^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [\d.]+)$/);
  }
});

for (const store of ["kv", "upstash"]) {
  describe(`after the deletion of a namespace (${store})`, () => {
    const vars = { ...VARS, COALESCE: "true", COALESCE_TTL: "60" };
    const headers = { "x-proxy-namespace": "gone" };

    test("no retained response is served", async () => {
      const proxy = await worker({ vars, store });
      upstream.otherwise({ json: chatCompletion("Hello") });
      assert.equal(xCacheStatusOf(await ask(proxy, { content: "retained", ...headers })), "MISS");
      await purge(proxy, "gone");
      assert.equal(xCacheStatusOf(await ask(proxy, { content: "retained", ...headers })), "MISS");
      assert.equal(upstream.count, 2);
    });

    test("a response that was in flight is not stored", async () => {
      const proxy = await worker({ vars, store });
      const release = upstream.holdNext({ json: chatCompletion("old") });
      const lines = proxy.lines.length;
      const old = send(proxy.origin, chatRequest("in flight", { headers }));
      await upstream.received(1);
      await purge(proxy, "gone");
      release();
      assert.equal((await old).status, 200);
      await waitFor(
        () => proxy.lines.slice(lines).some(({ reason }) => reason === "superseded"),
        "the response to be discarded",
      );
      assert.deepEqual(await proxy.entries(), []);
      upstream.otherwise({ json: chatCompletion("new") });
      assert.equal(xCacheStatusOf(await ask(proxy, { content: "in flight", ...headers })), "MISS");
    });

    test("other namespaces are unaffected", async () => {
      const proxy = await worker({ vars, store });
      upstream.otherwise({ json: chatCompletion("Hello") });
      await ask(proxy, { content: "stays", "x-proxy-namespace": "stays" });
      await purge(proxy, "gone");
      assert.equal(xCacheStatusOf(await ask(proxy, { content: "stays", "x-proxy-namespace": "stays" })), "HIT");
    });
  });
}
