// CACHE_ENCRYPTION_KEY: what is at rest says nothing, and opens only with the secret and the question.

import assert from "node:assert/strict";
import { createDecipheriv, createHash, hkdfSync } from "node:crypto";
import { after, beforeEach, test } from "node:test";
import { send } from "./support/client.mjs";
import { decode } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", STORE_TIMEOUT_MS: "20000" };
const HEAD = Buffer.from("RPRS\x02", "latin1");
const NONCE = 12;
const TAG = 16;
const ask = (proxy, { content = "Hi", stream, ...headers } = {}) =>
  proxy.settled(() =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
      body: JSON.stringify({ model: "m", stream, messages: [{ role: "user", content }] }),
    }),
  );
const sealed = (secrets, more = {}) => worker({ vars: { ...VARS, CACHE_ENCRYPTION_KEY: secrets }, ...more });

// Everything in one store, put into another's.
async function move(from, to) {
  await to.clear();
  for (const [name, bytes, metadata] of await from.entries()) await to.kv.put(name, bytes, { metadata });
}

for (const store of ["kv", "upstash"]) {
  test(`an entry at rest says nothing of its question or answer, and is a hit (${store})`, async () => {
    const proxy = await sealed("geheim", { store });
    await proxy.clear();
    upstream.next({ headers: { "x-request-id": "req_plain" }, json: { id: "plain-answer" } });
    await ask(proxy);
    const [[name, bytes]] = await proxy.entries();
    assert.deepEqual(bytes.subarray(0, HEAD.length), HEAD);
    assert.doesNotMatch(bytes.toString("latin1"), /plain|req_|content-type|stored_at|status|Hi|sk-test/);
    assert.ok(Buffer.byteLength(name) <= 512);
    const hit = await ask(proxy);
    assert.equal(expect.cacheStatus(hit), "HIT");
    assert.equal(hit.body.toString(), '{"id":"plain-answer"}');
    assert.equal(hit.headers["x-request-id"], "req_plain");
    assert.equal(upstream.calls.length, 1);
  });
}

for (const COALESCE of ["true", "false"]) {
  test(`every way to an entry seals it: COALESCE=${COALESCE}`, async () => {
    const vars = { COALESCE, STALE_WHILE_REVALIDATE: "600" };
    const proxy = await worker({ vars: { ...VARS, ...vars, CACHE_ENCRYPTION_KEY: "geheim" } });
    const body = `data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n`;
    upstream.otherwise({ headers: { "content-type": "text/event-stream" }, body });
    await ask(proxy, { stream: true, "x-proxy-ttl": "1" });
    await ask(proxy, { stream: true, "x-proxy-refresh": "true", content: "refreshed" });
    await new Promise((resolve) => setTimeout(resolve, 1100)); // the entry's lifetime
    assert.equal(expect.cacheStatus(await ask(proxy, { stream: true, "x-proxy-ttl": "600" })), "UPDATING");
    assert.equal(expect.cacheStatus(await ask(proxy, { stream: true })), "HIT");
    const entries = await proxy.entries();
    assert.equal(entries.length, 2);
    for (const [, bytes] of entries) assert.deepEqual(bytes.subarray(0, HEAD.length), HEAD);
    // Converted from a sealed entry.
    assert.equal(JSON.parse((await ask(proxy)).body.toString()).choices[0].message.content, "x");
  });
}

test("two entries of one answer have nothing in common", async () => {
  const proxy = await sealed("geheim");
  await proxy.clear();
  upstream.otherwise({ json: { id: "the same" } });
  const seen = [];
  for (const refresh of ["false", "true"]) {
    await ask(proxy, { "x-proxy-refresh": refresh });
    const [[, bytes]] = await proxy.entries();
    seen.push(bytes.subarray(HEAD.length));
  }
  assert.notDeepEqual(seen[0].subarray(0, NONCE), seen[1].subarray(0, NONCE));
  assert.notDeepEqual(seen[0].subarray(NONCE, NONCE + 32), seen[1].subarray(NONCE, NONCE + 32));
});

test("secrets are rotated: the first seals, all open, and what none opens is a miss", async () => {
  const [old, rotated, fresh] = [await sealed("old"), await sealed("new, old"), await sealed("new")];
  await old.clear();
  upstream.next({ json: { id: "of the old" } });
  await ask(old);
  await move(old, rotated);
  assert.equal(expect.cacheStatus(await ask(rotated)), "HIT");
  await move(old, fresh);
  const missed = await ask(fresh);
  assert.equal(expect.cacheStatus(missed), "MISS");
  assert.equal(expect.detail(missed), "entry-corrupt");
  assert.equal(upstream.calls.length, 2);
  // The good answer has taken the entry's place.
  assert.equal(expect.cacheStatus(await ask(fresh)), "HIT");
  await ask(rotated, { "x-proxy-refresh": "true" });
  await move(rotated, fresh);
  assert.equal(expect.cacheStatus(await ask(fresh)), "HIT");
});

test("a sealed entry is of no use under another question's name, or another party's", async () => {
  const proxy = await sealed("geheim");
  await proxy.clear();
  await ask(proxy);
  const [[mine, bytes]] = await proxy.entries();
  for (const other of [{ content: "other" }, { authorization: "Bearer other" }, { "x-proxy-namespace": "other" }]) {
    await ask(proxy, other);
    const [name] = (await proxy.entries()).map(([name]) => name).filter((name) => name !== mine);
    await proxy.kv.put(name, bytes);
    const reply = await ask(proxy, other);
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.equal(expect.detail(reply), "entry-corrupt");
    await proxy.kv.delete(name);
  }
});

test("whatever is changed in a sealed entry, it is a miss", async () => {
  const proxy = await sealed("geheim");
  await proxy.clear();
  upstream.otherwise({ json: { id: "right" } });
  await ask(proxy);
  const [[name, bytes]] = await proxy.entries();
  const flipped = (at) => Buffer.from(bytes.map((byte, i) => (i === at ? byte ^ 1 : byte)));
  const damaged = [0, 4, 5, 16, 17, 60, bytes.length - 1].map(flipped);
  for (const length of [0, 4, 5, 16, 17, 32, bytes.length - 1]) damaged.push(bytes.subarray(0, length));
  damaged.push(Buffer.concat([bytes, Buffer.alloc(1)]));
  for (const value of damaged) {
    await proxy.kv.put(name, value);
    const reply = await ask(proxy);
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.equal(expect.detail(reply), "entry-corrupt");
    assert.equal(reply.body.toString(), '{"id":"right"}');
  }
  assert.equal(expect.cacheStatus(await ask(proxy)), "HIT");
});

test("with a secret, an entry that anybody could have written is a miss", async () => {
  const [plain, proxy] = [await worker({ vars: VARS }), await sealed("geheim")];
  await plain.clear();
  upstream.next({ json: { id: "planted" } });
  await ask(plain);
  await move(plain, proxy);
  const reply = await ask(proxy);
  assert.equal(expect.detail(reply), "entry-corrupt");
  assert.equal(reply.body.toString(), '{"id":"answer-2"}');
  // And the other way round: without the secret a sealed entry is nothing.
  await move(proxy, plain);
  assert.equal(expect.detail(await ask(plain)), "entry-corrupt");
});

test("neither the secret nor the store's key is enough to open an entry", async () => {
  const proxy = await sealed("geheim");
  await proxy.clear();
  const key = /key="([0-9a-f]+)"/.exec((await ask(proxy)).headers["cache-status"])[1];
  const [[name, bytes]] = await proxy.entries();
  const open = (salt) => {
    const derived = hkdfSync("sha256", "geheim", salt, "reprise-entry-key-1", 32);
    const cipher = createDecipheriv("aes-256-gcm", Buffer.from(derived), bytes.subarray(HEAD.length, HEAD.length + NONCE));
    cipher.setAAD(HEAD);
    cipher.setAuthTag(bytes.subarray(-TAG));
    const opened = Buffer.concat([cipher.update(bytes.subarray(HEAD.length + NONCE, -TAG)), cipher.final()]);
    return decode(opened);
  };
  const salts = [Buffer.alloc(0), Buffer.alloc(32), Buffer.from(key, "hex"), Buffer.from(key), Buffer.from(name)];
  for (const salt of salts) assert.throws(() => open(salt), /authenticate/);
  // Both together are: the secret, and all of the question.
  const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
  const length = (n) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(n));
    return bytes;
  };
  const list = (...items) => Buffer.concat(items.flatMap((item) => [length(Buffer.from(item).length), Buffer.from(item)]));
  const party = ["credentials", length(1), "authorization", "Bearer sk-test"];
  const asked = ["POST", `${upstream.origin}/v1/chat/completions`, length(0), "exact", length(0)];
  const body = ["canonical", sha256('{"messages":[{"content":"Hi","role":"user"}],"model":"m"}')];
  const question = list("reprise-sealing-1", "", ...party, ...asked, ...body);
  assert.equal(open(sha256(question)).body.toString(), '{"id":"answer-1"}');
});
