// The fast path for requests that have been seen before. It is taken only if nothing relevant has changed, and its responses
// equal those of the slow path.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { detailOf, keyOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { decodeEntry, encodeEntry, HEAD_AT } from "../../testkit/entry.mjs";
import {
  chatCompletion,
  chatEvent,
  chatRequest,
  DONE,
  EVENT_STREAM,
  result,
  resultText,
} from "../../testkit/fixtures.mjs";
import { DETAIL, METRIC } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withinOneWindow } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "0",
  ADMIN_TOKEN: "adm",
};
const MEMORY = { MEMORY_CACHE_BYTES: "1000000", MEMORY_CACHE_TTL: "3600" };

let prompts = 0;
const freshPrompt = () => `prompt ${(prompts += 1)}`;
const ask = (proxy, content, headers) => proxy.settled(() => send(proxy.origin, chatRequest(content, { headers })));
// The number of requests that have taken the fast path.
async function fastPathHits(proxy) {
  const get = { method: "GET", path: "/metrics", headers: { authorization: "Bearer adm" } };
  const { body } = await proxy.settled(() => send(proxy.origin, get));
  return Number(new RegExp(`^${METRIC.fastPathHits} (\\d+)$`, "m").exec(body.toString())[1]);
}
async function countFastPath(proxy, act) {
  const before = await fastPathHits(proxy);
  const reply = await act();
  return [(await fastPathHits(proxy)) - before, reply];
}
// A response without the fields that depend on time.
const timeless = ({ status, rawHeaders, body }) => {
  const pairs = rawHeaders.map((text, at) => [text, rawHeaders[at + 1]]).filter((_, at) => at % 2 === 0);
  return [status, pairs.filter(([name]) => !/^(date|age)$/i.test(name)).sort(), body.toString()];
};
const timelessLine = ({ ms, ...line }) => [typeof ms, line];

const tiers = { "in memory": MEMORY, "not in memory": {} };
for (const store of ["kv", "upstash"]) {
  for (const [tier, more] of Object.entries(tiers)) {
    for (const secret of [undefined, "a secret of thirty-two characters"]) {
      const what = `${store}, ${tier}${secret ? ", encrypted" : ""}`;
      test(`the fast path and the slow path give equal responses: ${what}`, async () => {
        const vars = { ...VARS, ...more, ...(secret && { CACHE_ENCRYPTION_KEY: secret }) };
        const proxy = await worker({ vars, store });
        const prompt = freshPrompt();
        // The isolate must know the head first.
        for (let n = 0; n < 2; n += 1) await ask(proxy, freshPrompt());
        upstream.next({ headers: { "x-request-id": "req_1", "openai-version": "1" }, json: result("äöü") });
        await ask(proxy, prompt);
        const [slow, bySlowPath] = await countFastPath(proxy, () => ask(proxy, prompt, { accept: "*/*" }));
        const slowLine = proxy.lines.at(-2);
        const [fast, byFastPath] = await countFastPath(proxy, async () => {
          await ask(proxy, prompt);
          return ask(proxy, prompt, { "x-request-id": "another" });
        });
        const fastLine = proxy.lines.at(-2);
        assert.deepEqual([slow, fast], [0, 2]);
        assert.equal(xCacheStatusOf(byFastPath), "HIT");
        assert.deepEqual(timeless(byFastPath), timeless(bySlowPath));
        assert.deepEqual(timelessLine(fastLine), timelessLine(slowLine));
        assert.equal(upstream.calls.length, 3);
      });
    }
  }
}

const disabling = { DEBUG: "true", STRIP_THINK: "true" };
for (const [name, value] of Object.entries(disabling)) {
  test(`${name} disables the fast path`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...MEMORY, [name]: value } });
    const prompt = freshPrompt();
    const [fast] = await countFastPath(proxy, async () => {
      for (let n = 0; n < 4; n += 1) await ask(proxy, prompt);
    });
    assert.equal(fast, 0);
    assert.equal(upstream.calls.length, 1);
  });
}

test("the fast path respects the rate limit", async () => {
  const proxy = await worker({ vars: { ...VARS, ...MEMORY }, rateLimit: 4 });
  await withinOneWindow(async () => {
    const prompt = freshPrompt();
    const statuses = [];
    for (let n = 0; n < 6; n += 1) statuses.push((await ask(proxy, prompt)).status);
    assert.deepEqual(statuses, [200, 200, 200, 200, 429, 429]);
  });
});

test("the fast path serves no client another's response, and none without a token", async () => {
  const proxy = await worker({ vars: { ...VARS, ...MEMORY, PROXY_TOKENS: "tok-a,tok-b" } });
  const prompt = freshPrompt();
  const as = (token) => ask(proxy, prompt, { authorization: `Bearer ${token}` });
  for (let n = 0; n < 4; n += 1) assert.equal((await as("tok-a")).body.toString(), resultText("answer-1"));
  for (let n = 0; n < 4; n += 1) assert.equal((await as("tok-b")).body.toString(), resultText("answer-2"));
  for (let n = 0; n < 2; n += 1) assert.equal((await as("tok-c")).status, 401);
  assert.equal(upstream.calls.length, 2);
});

for (const [tier, more] of Object.entries(tiers)) {
  test(`a refresh, a deletion and an expiry take effect on the fast path: ${tier}`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...more } });
    const prompt = freshPrompt();
    const isServed = async (id) => {
      for (let n = 0; n < 4; n += 1)
        assert.equal((await ask(proxy, prompt)).body.toString(), resultText(`answer-${id}`));
    };
    await isServed(1);
    await ask(proxy, prompt, { "x-proxy-refresh": "true" });
    await isServed(2);
    const key = keyOf(await ask(proxy, prompt));
    const path = `/admin/cache/${key}`;
    await proxy.settled(() => send(proxy.origin, { method: "DELETE", path, headers: { authorization: "Bearer adm" } }));
    await isServed(3);
    const brief = { "x-proxy-ttl": "1" };
    const other = freshPrompt();
    await ask(proxy, other, brief);
    let reply;
    do reply = await ask(proxy, other, brief);
    while (xCacheStatusOf(reply) === "HIT");
    assert.equal(reply.body.toString(), resultText("answer-5"));
  });
}

for (const store of ["kv", "upstash"]) {
  test(`a response in memory that needs conversion precedes an older one in the store (${store})`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...MEMORY }, store });
    await proxy.clear();
    const prompt = freshPrompt();
    for (let n = 0; n < 2; n += 1) await ask(proxy, freshPrompt());
    upstream.next({ json: chatCompletion("old") });
    for (let n = 0; n < 3; n += 1) await ask(proxy, prompt);
    const old = (await proxy.entries()).filter(([, bytes]) => bytes.includes('"old"'));
    const body = chatEvent({ role: "assistant", content: "new" }, "stop") + DONE;
    upstream.next({ headers: EVENT_STREAM, body });
    await proxy.settled(() =>
      send(proxy.origin, chatRequest(prompt, { headers: { "x-proxy-refresh": "true" }, stream: true })),
    );
    // As in a store whose writes become visible late.
    for (const [name, bytes, metadata] of old) await proxy.kv.put(name, bytes, { metadata });
    for (let n = 0; n < 3; n += 1) {
      const reply = await ask(proxy, prompt);
      assert.equal(JSON.parse(reply.body).choices[0].message.content, "new");
      assert.equal(detailOf(reply), DETAIL.memory);
    }
  });
}

for (const [tier, more] of Object.entries(tiers)) {
  test(`after the wasm instance has trapped, repeats are served and the fast path is learned again: ${tier}`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...more }, trap: "/proxy/trap" });
    const prompts = [freshPrompt(), freshPrompt()];
    for (let n = 0; n < 4; n += 1) for (const prompt of prompts) await ask(proxy, prompt);
    const bodies = [];
    for (const prompt of prompts) bodies.push((await ask(proxy, prompt)).body.toString());
    const trapped = () =>
      send(proxy.origin, { path: "/proxy/trap", headers: { "content-type": "text/plain" }, body: "x" });
    for (let n = 0; n < 2; n += 1) {
      assert.equal((await trapped()).status, 500);
      for (let m = 0; m < 3; m += 1) {
        for (const [at, prompt] of prompts.entries()) {
          const reply = await ask(proxy, prompt);
          assert.deepEqual([reply.status, xCacheStatusOf(reply), reply.body.toString()], [200, "HIT", bodies[at]]);
        }
      }
      const [fast] = await countFastPath(proxy, () => ask(proxy, prompts[0]));
      assert.equal(fast, 1);
    }
  });
}

test("an entry that is damaged after the fast path was learned is a miss with a reason", async () => {
  const proxy = await worker({ vars: VARS });
  await proxy.clear();
  const prompt = freshPrompt();
  for (let n = 0; n < 4; n += 1) await ask(proxy, prompt);
  const [[name, bytes, metadata]] = await proxy.entries();
  for (const at of [0, 4, HEAD_AT - 1, HEAD_AT, bytes.length - 1]) {
    const damaged = Buffer.from(bytes);
    damaged[at] ^= 1;
    upstream.next({ body: resultText("answer-1"), headers: { "content-type": "application/json" } });
    await proxy.kv.put(name, damaged, { metadata });
    const reply = await ask(proxy, prompt);
    assert.deepEqual([xCacheStatusOf(reply), detailOf(reply)], ["MISS", "entry-corrupt"], `byte ${at}`);
    assert.equal(reply.body.toString(), resultText("answer-1"));
    upstream.reset();
    await ask(proxy, prompt);
  }
});

test("an invalid header in a stored entry is neither sent nor ends the fast path", async () => {
  const proxy = await worker({ vars: VARS });
  await proxy.clear();
  const prompt = freshPrompt();
  for (let n = 0; n < 3; n += 1) await ask(proxy, prompt);
  const [[name, bytes, metadata]] = await proxy.entries();
  const { head, body } = decodeEntry(bytes);
  head.headers.push(["x-a", "a\r\nx-b: b"], ["bad name", "b"], ["x-c", "\u0000"], ["x-d", "d"]);
  await proxy.kv.put(name, encodeEntry({ head, body }), { metadata });
  const [fast, reply] = await countFastPath(proxy, async () => {
    await ask(proxy, prompt);
    return ask(proxy, prompt);
  });
  assert.equal(fast, 2);
  assert.doesNotMatch(JSON.stringify(reply.rawHeaders), /bad name|x-[abc]"/i);
  assert.equal(reply.headers["x-d"], "d");
});

test("a store that times out or fails is read once", async () => {
  for (const [verdict, reason, vars] of /** @type {any[][]} */ ([
    ["fail", "store-error", {}],
    [new Promise(() => {}), "store-timeout", { STORE_TIMEOUT_MS: "50" }],
  ])) {
    const proxy = await worker({ vars: { ...VARS, ...vars }, store: "faulty-kv" });
    const prompt = freshPrompt();
    for (let n = 0; n < 3; n += 1) await ask(proxy, prompt);
    let reads = 0;
    proxy.gate("get", () => {
      reads += 1;
      return verdict;
    });
    const reply = await ask(proxy, prompt);
    assert.deepEqual([xCacheStatusOf(reply), detailOf(reply), reads], ["MISS", reason, 1]);
    proxy.openGates();
    await ask(proxy, prompt);
  }
});
