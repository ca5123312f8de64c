// Timeouts: an upstream that pauses is aborted, a client that pauses is not, and a late write does not replace a newer one.

import assert from "node:assert/strict";
import http from "node:http";
import { after, beforeEach, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatRequest, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { deferred, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", IDLE_TIMEOUT: "1" };
const proxy = await worker({ vars: VARS });
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});

const chat = (fields = {}, headers = {}) => chatRequest("Hi", { headers, ...fields });

// Sends these bytes and then nothing, with the connection open.
const pausing = (status, headers, bytes) => async (call, res) => {
  await call.bodyReceived;
  res.writeHead(status, headers);
  res.flushHeaders();
  res.write(bytes);
};

describe("a cacheable response that pauses for IDLE_TIMEOUT is aborted, for the client too", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "300" } });
  const json = { "content-type": "application/json" };
  const half = gzipSync(resultText("x".repeat(2000))).subarray(0, 30);
  const cases = {
    "an object": [proxy, 200, json, '{"id":"'],
    "a stream": [proxy, 200, { "content-type": "text/event-stream" }, "data: {}\n\n"],
    "a stream that has grown beyond CACHE_MAX_BYTES": [
      small,
      200,
      { "content-type": "text/event-stream" },
      `data: ${"x".repeat(500)}\n\n`,
    ],
    "an object whose length exceeds CACHE_MAX_BYTES": [
      small,
      200,
      { ...json, "content-length": "999" },
      "x".repeat(500),
    ],
    "an object that has grown beyond CACHE_MAX_BYTES": [small, 200, json, "x".repeat(500)],
    "an error": [proxy, 500, json, "{"],
    "an error in HTML": [proxy, 500, { "content-type": "text/html" }, "<html>"],
    "an error without a content type": [proxy, 500, {}, "no"],
    "a compressed object": [proxy, 200, { ...json, "content-encoding": "gzip" }, half],
    "an object whose content coding is wrong": [proxy, 200, { ...json, "content-encoding": "gzip" }, '{"id":"'],
  };
  for (const [name, [instance, status, headers, bytes]] of Object.entries(cases)) {
    test(name, async () => {
      await instance.clear();
      upstream.next(pausing(status, headers, bytes));
      // Many times IDLE_TIMEOUT: no measure of speed.
      const reply = await withTimeout(
        send(instance.origin, { ...chat(), allowTruncation: true }),
        "the response to end",
        10_000,
      );
      assert.equal(reply.status, status);
      assert.equal(reply.complete, false, "a truncated response looks complete");
      assert.deepEqual(await instance.entries(), []);
    });
  }
});

describe("a client that pauses for longer than IDLE_TIMEOUT still gets its whole response", () => {
  // More than the buffers between the upstream and the client hold.
  const body = Buffer.from(resultText("x".repeat(9_000_000)));

  for (const [name, request] of /** @type {any[][]} */ ([
    ["of a cacheable request", chat()],
    ["of a request that is not stored", chat({}, { "cache-control": "no-store" })],
  ])) {
    test(name, async () => {
      upstream.next({ headers: { "content-type": "application/json" }, body });
      const { hostname, port } = new URL(proxy.origin);
      const { method = "POST", path, headers } = request;
      const logged = proxy.lines.length;
      const sent = http.request({ hostname, port, method, path, headers, agent: false });
      const arrived = new Promise((resolve, reject) => sent.once("response", resolve).once("error", reject));
      sent.end(request.body);
      const reply = await withTimeout(arrived, "the head of the response");
      // Aborted responses are the clock: three times IDLE_TIMEOUT in which nothing of this one is read.
      for (let n = 0; n < 3; n += 1) {
        upstream.next(pausing(200, { "content-type": "application/json" }, "{"));
        await send(proxy.origin, { ...chat({ n }), allowTruncation: true });
      }
      const read = async () => {
        const chunks = [];
        for await (const chunk of reply) chunks.push(chunk);
        return Buffer.concat(chunks);
      };
      assertSameBytes(await withTimeout(read(), "the rest of the response"), body, "the response");
      await proxy.logged(logged + 4);
      const stored = (await proxy.entries()).length;
      assert.equal(stored, request.headers["cache-control"] === undefined ? 1 : 0, "entries");
    });
  }
});

test("a retried KV write does not replace an entry that was stored meanwhile", async () => {
  const faulty = await worker({ vars: { ...VARS, MAX_RETRIES: "3" }, store: "faulty-kv" });
  await faulty.clear();
  const verdicts = ["fail"];
  faulty.gate("put", () => verdicts.shift() ?? "pass");
  upstream.next({ json: result("older") }, { json: result("newer") });
  const logged = faulty.lines.length;
  const older = await send(faulty.origin, chat());
  const newer = await send(faulty.origin, chat({}, { "x-proxy-refresh": "true" }));
  assert.deepEqual(
    [older, newer].map((reply) => reply.body.toString()),
    [resultText("older"), resultText("newer")],
  );
  await faulty.logged(logged + 2);
  const hit = await send(faulty.origin, chat());
  assert.equal(xCacheStatusOf(hit), "HIT");
  assert.equal(hit.body.toString(), resultText("newer"));
});

test("no retry starts after TIMEOUT, even if a failed response ends late", async () => {
  const limited = await worker({ vars: { ...VARS, MAX_RETRIES: "1", TIMEOUT: "2" } });
  await limited.clear();
  const text = '{"error":{"message":"later"}}';
  upstream.next(async (call, res) => {
    await call.bodyReceived;
    res.writeHead(503, { "content-type": "application/json", "content-length": text.length, "retry-after": "1.5" });
    res.write(text.slice(0, 5));
    // The response ends after a second. The wait that it demands would end half a second after TIMEOUT.
    setTimeout(() => res.end(text.slice(5)), 1000);
  });
  const reply = await limited.settled(() => send(limited.origin, chat()));
  assert.equal(reply.status, 503);
  assert.equal(reply.body.toString(), text);
  assert.equal(upstream.calls.length, 1, "calls to the upstream");
});

test("the last response reaches the client, whatever its size", async () => {
  const limited = await worker({ vars: { ...VARS, MAX_RETRIES: "1", BASE_RETRY_DELAY: "0.01", TIMEOUT: "2" } });
  await limited.clear();
  const body = Buffer.from(`<html>${"x".repeat(100_000)}</html>`);
  upstream.next({ status: 502, headers: { "content-type": "text/html" }, body }, { hold: new Promise(() => {}) });
  const reply = await limited.settled(() => send(limited.origin, chat()));
  assert.equal(reply.status, 502);
  assertSameBytes(reply.body, body, "the last response");
});

test("TIMEOUT begins when the request body is complete", async () => {
  const limited = await worker({ vars: { ...VARS, TIMEOUT: "2" } });
  const json = { id: "x", choices: [{ index: 0, message: { content: "a" }, finish_reason: "stop" }] };
  upstream.otherwise((call) => (call.url.endsWith("/models") ? { hold: new Promise(() => {}) } : { json }));
  for (const headers of [{ "content-type": "text/plain" }, { "content-type": "application/json" }]) {
    const { promise: response, resolve } = deferred();
    const request = http.request(`${limited.origin}/proxy/chat/completions`, {
      method: "POST",
      headers: { ...headers, authorization: "Bearer sk-a", "accept-encoding": "identity" },
    });
    request.on("response", resolve);
    request.write('{"model":"m",');
    // Requests that time out are the clock.
    for (let clock = 0; clock < 2; clock += 1) {
      const timed = await send(limited.origin, {
        path: "/proxy/models",
        method: "GET",
        headers: { authorization: "Bearer sk-a" },
      });
      assert.equal(timed.status, 504);
    }
    request.end('"messages":[]}');
    const { statusCode } = await withTimeout(response, "the response");
    assert.equal(statusCode, 200, headers["content-type"]);
  }
});
