// Who waits for whom, and for how long: an upstream that pauses is given up whatever it was writing, a client that pauses is
// not, and what is late does not replace what came after it.

import assert from "node:assert/strict";
import http from "node:http";
import { after, beforeEach, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", IDLE_TIMEOUT: "1" };
const proxy = await worker({ vars: VARS });
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});

const chat = (more = {}, headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
  body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "Hi" }], ...more }),
});

// Says this much and then nothing, with the connection open.
const pausing = (status, headers, bytes) => async (call, res) => {
  await call.whole;
  res.writeHead(status, headers);
  res.flushHeaders();
  res.write(bytes);
};

describe("an answer to a question that pauses for IDLE_TIMEOUT is broken off, for the client too", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "300" } });
  const json = { "content-type": "application/json" };
  const half = gzipSync(JSON.stringify({ id: "x".repeat(2000) })).subarray(0, 30);
  const cases = {
    "an object": [proxy, 200, json, '{"id":"'],
    "a stream": [proxy, 200, { "content-type": "text/event-stream" }, "data: {}\n\n"],
    "a stream that has grown beyond CACHE_MAX_BYTES": [small, 200, { "content-type": "text/event-stream" }, `data: ${"x".repeat(500)}\n\n`],
    "an object that is announced as larger than CACHE_MAX_BYTES": [small, 200, { ...json, "content-length": "999" }, "x".repeat(500)],
    "an object that has grown beyond CACHE_MAX_BYTES": [small, 200, json, "x".repeat(500)],
    "an error": [proxy, 500, json, "{"],
    "an error in HTML": [proxy, 500, { "content-type": "text/html" }, "<html>"],
    "an error of no type": [proxy, 500, {}, "no"],
    "a coded object": [proxy, 200, { ...json, "content-encoding": "gzip" }, half],
    "an object that is not coded as it says": [proxy, 200, { ...json, "content-encoding": "gzip" }, '{"id":"'],
  };
  for (const [what, [instance, status, headers, bytes]] of Object.entries(cases)) {
    test(what, async () => {
      await instance.clear();
      upstream.next(pausing(status, headers, bytes));
      // Many times IDLE_TIMEOUT: no measure of speed.
      const reply = await within(send(instance.origin, { ...chat(), mayBreak: true }), "the answer to end", 10_000);
      assert.equal(reply.status, status);
      assert.equal(reply.whole, false, "half an answer is taken for a whole one");
      assert.deepEqual(await instance.entries(), []);
    });
  }
});

describe("a client that pauses for longer than IDLE_TIMEOUT has its whole answer in the end", () => {
  // More than the buffers between the upstream and the client hold.
  const body = Buffer.from(JSON.stringify({ id: "x".repeat(9_000_000) }));

  for (const [what, request] of [
    ["a question", chat()],
    ["a question that is not kept", chat({}, { "cache-control": "no-store" })],
  ]) {
    test(what, async () => {
      upstream.next({ headers: { "content-type": "application/json" }, body });
      const { hostname, port } = new URL(proxy.origin);
      const { method = "POST", path, headers } = request;
      const logged = proxy.lines.length;
      const sent = http.request({ hostname, port, method, path, headers, agent: false });
      const arrived = new Promise((resolve, reject) => sent.once("response", resolve).once("error", reject));
      sent.end(request.body);
      const reply = await within(arrived, "the head of the answer");
      // Answers that are given up are the clock: three times IDLE_TIMEOUT in which nothing of this one is read.
      for (let n = 0; n < 3; n += 1) {
        upstream.next(pausing(200, { "content-type": "application/json" }, "{"));
        await send(proxy.origin, { ...chat({ n }), mayBreak: true });
      }
      const read = async () => {
        const chunks = [];
        for await (const chunk of reply) chunks.push(chunk);
        return Buffer.concat(chunks);
      };
      expect.sameBytes(await within(read(), "the rest of the answer"), body, "the answer");
      await proxy.logged(logged + 4);
      const kept = (await proxy.entries()).length;
      assert.equal(kept, request.headers["cache-control"] === undefined ? 1 : 0, "entries");
    });
  }
});

test("a write that KV refused does not replace, when it is tried again, what was stored meanwhile", async () => {
  const gated = await worker({ vars: { ...VARS, MAX_RETRIES: "3" }, store: "gated" });
  await gated.clear();
  let writes = 0;
  gated.gate("put", () => ((writes += 1) === 1 ? "fail" : "pass"));
  upstream.next({ json: { id: "older" } }, { json: { id: "newer" } });
  const logged = gated.lines.length;
  const older = await send(gated.origin, chat());
  const newer = await send(gated.origin, chat({}, { "x-proxy-refresh": "true" }));
  assert.deepEqual([older, newer].map((reply) => reply.body.toString()), ['{"id":"older"}', '{"id":"newer"}']);
  await gated.logged(logged + 2);
  const hit = await send(gated.origin, chat());
  assert.equal(expect.cacheStatus(hit), "HIT");
  assert.equal(hit.body.toString(), '{"id":"newer"}');
});

test("no call is begun after TIMEOUT, though a failed answer takes its time to end", async () => {
  const limited = await worker({ vars: { ...VARS, MAX_RETRIES: "1", TIMEOUT: "2" } });
  await limited.clear();
  const said = '{"error":{"message":"later"}}';
  upstream.next(async (call, res) => {
    await call.whole;
    res.writeHead(503, { "content-type": "application/json", "content-length": said.length, "retry-after": "1.5" });
    res.write(said.slice(0, 5));
    // The answer ends after a second: what it asks to wait would be over half a second after TIMEOUT.
    setTimeout(() => res.end(said.slice(5)), 1000);
  });
  const reply = await limited.settled(() => send(limited.origin, chat()));
  assert.equal(reply.status, 503);
  assert.equal(reply.body.toString(), said);
  assert.equal(upstream.calls.length, 1, "calls to the upstream");
});

test("the last answer is the client's, whatever its size", async () => {
  const limited = await worker({ vars: { ...VARS, MAX_RETRIES: "1", BASE_RETRY_DELAY: "0.01", TIMEOUT: "2" } });
  await limited.clear();
  const body = Buffer.from(`<html>${"x".repeat(100_000)}</html>`);
  upstream.next({ status: 502, headers: { "content-type": "text/html" }, body }, { hold: new Promise(() => {}) });
  const reply = await limited.settled(() => send(limited.origin, chat()));
  assert.equal(reply.status, 502);
  expect.sameBytes(reply.body, body, "the last answer");
});
