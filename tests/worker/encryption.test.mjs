// CACHE_ENCRYPTION_KEY: a stored entry reveals nothing, and only the secret together with the request can decrypt it.

import assert from "node:assert/strict";
import { createDecipheriv, createHash, hkdfSync } from "node:crypto";
import { after, beforeEach, test } from "node:test";
import { detailOf, keyOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { decodeEntry } from "../../testkit/entry.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { waitFor } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
const HEAD = Buffer.from("RPRS\x02", "latin1");
const NONCE = 12;
const TAG = 16;
/** @type {(proxy: any, options?: Record<string, any>) => Promise<any>} */
const ask = (proxy, { content = "Hi", stream, ...headers } = {}) =>
  proxy.settled(() => send(proxy.origin, chatRequest(content, { headers, stream })));
const encrypted = (secrets, more = {}) => worker({ vars: { ...VARS, CACHE_ENCRYPTION_KEY: secrets }, ...more });

// Copies all entries of one store into another.
async function copy(from, to) {
  await to.clear();
  for (const [name, bytes, metadata] of await from.entries()) await to.kv.put(name, bytes, { metadata });
}

for (const store of ["kv", "upstash"]) {
  test(`a stored entry reveals nothing of its request or response, and is a hit (${store})`, async () => {
    const proxy = await encrypted("geheim", { store });
    await proxy.clear();
    upstream.next({ headers: { "x-request-id": "req_plain" }, json: result("plain-response") });
    await ask(proxy);
    const [[name, bytes]] = await proxy.entries();
    assert.deepEqual(bytes.subarray(0, HEAD.length), HEAD);
    assert.doesNotMatch(bytes.toString("latin1"), /plain|req_|content-type|stored_at|status|Hi|sk-test/);
    assert.ok(Buffer.byteLength(name) <= 512);
    const hit = await ask(proxy);
    assert.equal(xCacheStatusOf(hit), "HIT");
    assert.equal(hit.body.toString(), resultText("plain-response"));
    assert.equal(hit.headers["x-request-id"], "req_plain");
    assert.equal(upstream.calls.length, 1);
  });
}

for (const COALESCE of ["true", "false"]) {
  test(`every way to store an entry encrypts it (COALESCE=${COALESCE})`, async () => {
    const vars = { COALESCE, STALE_WHILE_REVALIDATE: "600" };
    const proxy = await worker({ vars: { ...VARS, ...vars, CACHE_ENCRYPTION_KEY: "geheim" } });
    const body = chatEvent({ content: "x" }, "stop") + DONE;
    upstream.otherwise({ headers: EVENT_STREAM, body });
    await ask(proxy, { stream: true, "x-proxy-ttl": "1" });
    await ask(proxy, { stream: true, "x-proxy-refresh": "true", content: "refreshed" });
    // Until the entry's lifetime of a second is over it is a hit.
    const repeat = () => ask(proxy, { stream: true, "x-proxy-ttl": "600" });
    const stale = await waitFor(async () => {
      const reply = await repeat();
      return xCacheStatusOf(reply) !== "HIT" && reply;
    }, "the entry's lifetime to end");
    assert.equal(xCacheStatusOf(stale), "UPDATING");
    assert.equal(xCacheStatusOf(await ask(proxy, { stream: true })), "HIT");
    const entries = await proxy.entries();
    assert.equal(entries.length, 2);
    for (const [, bytes] of entries) assert.deepEqual(bytes.subarray(0, HEAD.length), HEAD);
    // Converted from an encrypted entry.
    assert.equal(JSON.parse((await ask(proxy)).body.toString()).choices[0].message.content, "x");
  });
}

test("two encryptions of one response have nothing in common", async () => {
  const proxy = await encrypted("geheim");
  await proxy.clear();
  upstream.otherwise({ json: result("the same") });
  const seen = [];
  for (const refresh of ["false", "true"]) {
    await ask(proxy, { "x-proxy-refresh": refresh });
    const [[, bytes]] = await proxy.entries();
    seen.push(bytes.subarray(HEAD.length));
  }
  assert.notDeepEqual(seen[0].subarray(0, NONCE), seen[1].subarray(0, NONCE));
  assert.notDeepEqual(seen[0].subarray(NONCE, NONCE + 32), seen[1].subarray(NONCE, NONCE + 32));
});

test("secrets can be rotated: the first encrypts, all decrypt, and anything else is a miss", async () => {
  const [old, rotated, fresh] = [await encrypted("old"), await encrypted("new, old"), await encrypted("new")];
  await old.clear();
  upstream.next({ json: result("of the old") });
  await ask(old);
  await copy(old, rotated);
  assert.equal(xCacheStatusOf(await ask(rotated)), "HIT");
  await copy(old, fresh);
  const missed = await ask(fresh);
  assert.equal(xCacheStatusOf(missed), "MISS");
  assert.equal(detailOf(missed), "entry-corrupt");
  assert.equal(upstream.calls.length, 2);
  // The new response has replaced the entry.
  assert.equal(xCacheStatusOf(await ask(fresh)), "HIT");
  await ask(rotated, { "x-proxy-refresh": "true" });
  await copy(rotated, fresh);
  assert.equal(xCacheStatusOf(await ask(fresh)), "HIT");
});

test("an encrypted entry is a miss under another request's key, or another tenant's", async () => {
  const proxy = await encrypted("geheim");
  await proxy.clear();
  await ask(proxy);
  const [[mine, bytes]] = await proxy.entries();
  for (const other of [{ content: "other" }, { authorization: "Bearer other" }, { "x-proxy-namespace": "other" }]) {
    await ask(proxy, other);
    const [name] = (await proxy.entries()).map(([name]) => name).filter((name) => name !== mine);
    await proxy.kv.put(name, bytes);
    const reply = await ask(proxy, other);
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(detailOf(reply), "entry-corrupt");
    await proxy.kv.delete(name);
  }
});

test("an encrypted entry is a miss after any change", async () => {
  const proxy = await encrypted("geheim");
  await proxy.clear();
  upstream.otherwise({ json: result("right") });
  await ask(proxy);
  const [[name, bytes]] = await proxy.entries();
  const flipped = (at) => Buffer.from(bytes.map((byte, i) => (i === at ? byte ^ 1 : byte)));
  const damaged = [0, 4, 5, 16, 17, 60, bytes.length - 1].map(flipped);
  for (const length of [0, 4, 5, 16, 17, 32, bytes.length - 1]) damaged.push(bytes.subarray(0, length));
  damaged.push(Buffer.concat([bytes, Buffer.alloc(1)]));
  for (const value of damaged) {
    await proxy.kv.put(name, value);
    const reply = await ask(proxy);
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(detailOf(reply), "entry-corrupt");
    assert.equal(reply.body.toString(), resultText("right"));
  }
  assert.equal(xCacheStatusOf(await ask(proxy)), "HIT");
});

test("with a secret, an unencrypted entry is a miss", async () => {
  const [plain, proxy] = [await worker({ vars: VARS }), await encrypted("geheim")];
  await plain.clear();
  upstream.next({ json: result("planted") });
  await ask(plain);
  await copy(plain, proxy);
  const reply = await ask(proxy);
  assert.equal(detailOf(reply), "entry-corrupt");
  assert.equal(reply.body.toString(), resultText("answer-2"));
  // And without the secret an encrypted entry is a miss.
  await copy(proxy, plain);
  assert.equal(detailOf(await ask(plain)), "entry-corrupt");
});

test("neither the secret nor the store's key is enough to decrypt an entry", async () => {
  const proxy = await encrypted("geheim");
  await proxy.clear();
  const key = keyOf(await ask(proxy));
  const [[name, bytes]] = await proxy.entries();
  const decrypt = (salt) => {
    const derived = hkdfSync("sha256", "geheim", salt, "reprise-entry-key-1", 32);
    const cipher = createDecipheriv(
      "aes-256-gcm",
      Buffer.from(derived),
      bytes.subarray(HEAD.length, HEAD.length + NONCE),
    );
    cipher.setAAD(HEAD);
    cipher.setAuthTag(bytes.subarray(-TAG));
    const decrypted = Buffer.concat([cipher.update(bytes.subarray(HEAD.length + NONCE, -TAG)), cipher.final()]);
    return decodeEntry(decrypted);
  };
  const salts = [Buffer.alloc(0), Buffer.alloc(32), Buffer.from(key, "hex"), Buffer.from(key), Buffer.from(name)];
  for (const salt of salts) assert.throws(() => decrypt(salt), /authenticate/);
  // The secret and the whole request together are.
  const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
  const length = (n) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(n));
    return bytes;
  };
  const list = (...items) =>
    Buffer.concat(items.flatMap((item) => [length(Buffer.from(item).length), Buffer.from(item)]));
  const tenant = ["credentials", length(1), "authorization", "Bearer sk-test"];
  const target = ["POST", `${upstream.origin}/v1/chat/completions`, length(0), "exact", length(0)];
  const body = ["canonical", sha256('{"messages":[{"content":"Hi","role":"user"}],"model":"m"}')];
  const request = list("reprise-sealing-1", "", ...tenant, ...target, ...body);
  assert.equal(decrypt(sha256(request)).body.toString(), resultText("answer-1"));
});
