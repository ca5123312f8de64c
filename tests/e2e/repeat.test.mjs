// The short way for requests that have been seen before: taken only where nothing that counts has changed, and then just
// as good as the long one.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { send } from "./support/client.mjs";
import { decode, encode, HEAD_AT } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", ADMIN_TOKEN: "adm", STORE_TIMEOUT_MS: "20000" };
const MEMORY = { MEMORY_CACHE_BYTES: "1000000", MEMORY_CACHE_TTL: "3600" };

let questions = 0;
const fresh = () => `question ${(questions += 1)}`;
const ask = (proxy, content, headers) =>
  proxy.settled(() =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content }] }),
    }),
  );
// How many requests have taken the short way.
async function recognized(proxy) {
  const get = { method: "GET", path: "/metrics", headers: { authorization: "Bearer adm" } };
  const { body } = await proxy.settled(() => send(proxy.origin, get));
  return Number(/^reprise_recognized_total (\d+)$/m.exec(body.toString())[1]);
}
async function shortWays(proxy, act) {
  const before = await recognized(proxy);
  const reply = await act();
  return [(await recognized(proxy)) - before, reply];
}
// All of an answer but the moment of it.
const lasting = ({ status, rawHeaders, body }) => {
  const pairs = rawHeaders.map((text, at) => [text, rawHeaders[at + 1]]).filter((_, at) => at % 2 === 0);
  return [status, pairs.filter(([name]) => !/^(date|age)$/i.test(name)).sort(), body.toString()];
};
const logged = ({ ms, ...line }) => [typeof ms, line];

const tiers = { "in memory": MEMORY, "not in memory": {} };
for (const store of ["kv", "upstash"]) {
  for (const [tier, more] of Object.entries(tiers)) {
    for (const secret of [undefined, "a secret of thirty-two characters"]) {
      const what = `${store}, ${tier}${secret ? ", sealed" : ""}`;
      test(`the short way gives what the long way gives: ${what}`, async () => {
        const vars = { ...VARS, ...more, ...(secret && { CACHE_ENCRYPTION_KEY: secret }) };
        const proxy = await worker({ vars, store });
        const question = fresh();
        // The isolate gets to know the head first.
        for (let n = 0; n < 2; n += 1) await ask(proxy, fresh());
        upstream.next({ headers: { "x-request-id": "req_1", "openai-version": "1" }, json: { id: "a", text: "äöü" } });
        await ask(proxy, question);
        const [long, byLong] = await shortWays(proxy, () => ask(proxy, question, { "x-unheard-of": "1" }));
        const longLine = proxy.lines.at(-2);
        const [short, byShort] = await shortWays(proxy, async () => {
          await ask(proxy, question);
          return ask(proxy, question, { "x-request-id": "another" });
        });
        const shortLine = proxy.lines.at(-2);
        assert.deepEqual([long, short], [0, 2]);
        assert.equal(expect.cacheStatus(byShort), "HIT");
        assert.deepEqual(lasting(byShort), lasting(byLong));
        assert.deepEqual(logged(shortLine), logged(longLine));
        assert.equal(upstream.calls.length, 3);
      });
    }
  }
}

const closed = { DEBUG: "true", STRIP_THINK: "true" };
for (const [name, value] of Object.entries(closed)) {
  test(`there is no short way with ${name}`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...MEMORY, [name]: value } });
    const question = fresh();
    const [short] = await shortWays(proxy, async () => {
      for (let n = 0; n < 4; n += 1) await ask(proxy, question);
    });
    assert.equal(short, 0);
    assert.equal(upstream.calls.length, 1);
  });
}

test("there is no short way past a rate limit", async () => {
  const proxy = await worker({ vars: { ...VARS, ...MEMORY }, limit: 4 });
  const question = fresh();
  const statuses = [];
  for (let n = 0; n < 6; n += 1) statuses.push((await ask(proxy, question)).status);
  assert.deepEqual(statuses, [200, 200, 200, 200, 429, 429]);
});

test("nobody's repeat is answered with another's answer, nor without a token", async () => {
  const proxy = await worker({ vars: { ...VARS, ...MEMORY, PROXY_TOKENS: "tok-a,tok-b" } });
  const question = fresh();
  const as = (token) => ask(proxy, question, { authorization: `Bearer ${token}` });
  for (let n = 0; n < 4; n += 1) assert.equal((await as("tok-a")).body.toString(), '{"id":"answer-1"}');
  for (let n = 0; n < 4; n += 1) assert.equal((await as("tok-b")).body.toString(), '{"id":"answer-2"}');
  for (let n = 0; n < 2; n += 1) assert.equal((await as("tok-c")).status, 401);
  assert.equal(upstream.calls.length, 2);
});

for (const [tier, more] of Object.entries(tiers)) {
  test(`a refresh, a deletion and an end of life are seen on the short way: ${tier}`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...more } });
    const question = fresh();
    const answers = async (id) => {
      for (let n = 0; n < 4; n += 1) assert.equal((await ask(proxy, question)).body.toString(), `{"id":"answer-${id}"}`);
    };
    await answers(1);
    await ask(proxy, question, { "x-proxy-refresh": "true" });
    await answers(2);
    const key = /key="([0-9a-f]{64})"/.exec((await ask(proxy, question)).headers["cache-status"])[1];
    const path = `/admin/cache/${key}`;
    await proxy.settled(() => send(proxy.origin, { method: "DELETE", path, headers: { authorization: "Bearer adm" } }));
    await answers(3);
    const brief = { "x-proxy-ttl": "1" };
    const other = fresh();
    await ask(proxy, other, brief);
    let reply;
    do reply = await ask(proxy, other, brief);
    while (expect.cacheStatus(reply) === "HIT");
    assert.equal(reply.body.toString(), '{"id":"answer-5"}');
  });
}

for (const store of ["kv", "upstash"]) {
  test(`a remembered answer that has to be converted is not passed over for an older one in the store (${store})`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...MEMORY }, store });
    await proxy.clear();
    const question = fresh();
    for (let n = 0; n < 2; n += 1) await ask(proxy, fresh());
    const message = { role: "assistant", content: "old" };
    const json = { id: "c", object: "chat.completion", created: 1, model: "m", choices: [{ index: 0, message, finish_reason: "stop" }] };
    upstream.next({ json });
    for (let n = 0; n < 3; n += 1) await ask(proxy, question);
    const old = (await proxy.entries()).filter(([, bytes]) => bytes.includes('"old"'));
    const chunk = { id: "c", object: "chat.completion.chunk", created: 1, model: "m" };
    const choice = { index: 0, delta: { role: "assistant", content: "new" }, finish_reason: "stop" };
    const body = `data: ${JSON.stringify({ ...chunk, choices: [choice] })}\n\ndata: [DONE]\n\n`;
    upstream.next({ headers: { "content-type": "text/event-stream" }, body });
    await proxy.settled(() =>
      send(proxy.origin, {
        path: "/proxy/chat/completions",
        headers: { "content-type": "application/json", authorization: "Bearer sk-test", "x-proxy-refresh": "true" },
        body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content: question }] }),
      }),
    );
    // As a store does that shows what is written late.
    for (const [name, bytes, metadata] of old) await proxy.kv.put(name, bytes, { metadata });
    for (let n = 0; n < 3; n += 1) {
      const reply = await ask(proxy, question);
      assert.equal(JSON.parse(reply.body).choices[0].message.content, "new");
      assert.equal(expect.detail(reply), "memory");
    }
  });
}

for (const [tier, more] of Object.entries(tiers)) {
  test(`when the instance has come to an end, repeats are answered and then recognized again: ${tier}`, async () => {
    const proxy = await worker({ vars: { ...VARS, ...more }, trap: "/proxy/trap" });
    const questions = [fresh(), fresh()];
    for (let n = 0; n < 4; n += 1) for (const question of questions) await ask(proxy, question);
    const answers = [];
    for (const question of questions) answers.push((await ask(proxy, question)).body.toString());
    const trapped = () => send(proxy.origin, { path: "/proxy/trap", headers: { "content-type": "text/plain" }, body: "x" });
    for (let n = 0; n < 2; n += 1) {
      assert.equal((await trapped()).status, 500);
      for (let m = 0; m < 3; m += 1) {
        for (const [at, question] of questions.entries()) {
          const reply = await ask(proxy, question);
          assert.deepEqual([reply.status, expect.cacheStatus(reply), reply.body.toString()], [200, "HIT", answers[at]]);
        }
      }
      const [short] = await shortWays(proxy, () => ask(proxy, questions[0]));
      assert.equal(short, 1);
    }
  });
}

test("an entry that is damaged after it was recognized is a miss that says so", async () => {
  const proxy = await worker({ vars: VARS });
  await proxy.clear();
  const question = fresh();
  for (let n = 0; n < 4; n += 1) await ask(proxy, question);
  const [[name, bytes, metadata]] = await proxy.entries();
  for (const at of [0, 4, HEAD_AT - 1, HEAD_AT, bytes.length - 1]) {
    const damaged = Buffer.from(bytes);
    damaged[at] ^= 1;
    upstream.next({ body: JSON.stringify({ id: "answer-1" }), headers: { "content-type": "application/json" } });
    await proxy.kv.put(name, damaged, { metadata });
    const reply = await ask(proxy, question);
    assert.deepEqual([expect.cacheStatus(reply), expect.detail(reply)], ["MISS", "entry-corrupt"], `byte ${at}`);
    assert.equal(reply.body.toString(), '{"id":"answer-1"}');
    upstream.reset();
    await ask(proxy, question);
  }
});

test("a header that is none, in a stored entry, neither goes out nor ends the short way", async () => {
  const proxy = await worker({ vars: VARS });
  await proxy.clear();
  const question = fresh();
  for (let n = 0; n < 3; n += 1) await ask(proxy, question);
  const [[name, bytes, metadata]] = await proxy.entries();
  const { head, body } = decode(bytes);
  head.headers.push(["x-a", "a\r\nx-b: b"], ["bad name", "b"], ["x-c", "\u0000"], ["x-d", "d"]);
  await proxy.kv.put(name, encode({ head, body }), { metadata });
  const [short, reply] = await shortWays(proxy, async () => {
    await ask(proxy, question);
    return ask(proxy, question);
  });
  assert.equal(short, 2);
  assert.doesNotMatch(JSON.stringify(reply.rawHeaders), /bad name|x-[abc]"/i);
  assert.equal(reply.headers["x-d"], "d");
});

test("a store that never answers, or fails, is asked once", async () => {
  const proxy = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "50" }, store: "gated" });
  const question = fresh();
  for (let n = 0; n < 3; n += 1) await ask(proxy, question);
  for (const [verdict, reason] of [["fail", "store-error"], [new Promise(() => {}), "store-timeout"]]) {
    let asked = 0;
    proxy.gate("get", () => {
      asked += 1;
      return verdict;
    });
    const reply = await ask(proxy, question);
    assert.deepEqual([expect.cacheStatus(reply), expect.detail(reply), asked], ["MISS", reason, 1]);
    proxy.openGates();
    await ask(proxy, question);
  }
});
