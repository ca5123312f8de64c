// Authentication and rate limits, as far as the exchange cases cannot express them.

import assert from "node:assert/strict";
import net from "node:net";
import { after, beforeEach, test } from "node:test";
import { assertProxyError } from "../../testkit/assertions.mjs";
import { cacheStatusOf, detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatRequest } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", PROXY_TOKENS: "tok-a,tok-b" };
const ask = (proxy, headers, content = "Hi") => send(proxy.origin, chatRequest(content, { headers, key: null }));

test("a client without a token is refused before its body is read", async () => {
  const proxy = await worker({ vars: VARS });
  const { hostname, port } = new URL(proxy.origin);
  const socket = net.connect(Number(port), hostname);
  after(() => socket.destroy());
  // The announced body is never sent.
  socket.write(
    "POST /proxy/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
  );
  const reply = await withTimeout(new Promise((resolve) => socket.once("data", resolve)), "a refusal");
  assert.match(reply.toString(), /^HTTP\/1\.1 401 /);
});

test("a client without a token is refused before the store is read", async () => {
  const proxy = await worker({ vars: { ...VARS }, store: "upstash" });
  const reply = await proxy.settled(() => ask(proxy, { authorization: "Bearer wrong" }));
  assert.equal(reply.status, 401);
  assert.deepEqual([proxy.redis.calls.length, upstream.calls.length], [0, 0]);
});

test("a GET with a body is refused for the missing token first, then for the body", async () => {
  const proxy = await worker({ vars: VARS });
  const get = (headers) => send(proxy.origin, { method: "GET", path: "/proxy/models", headers, body: "x" });
  assertProxyError(await get({}), "invalid_token");
  assertProxyError(await get({ authorization: "Bearer tok-a" }), "body_not_allowed");
});

test("a WebSocket opens only with a token, and the token is not forwarded", async () => {
  const proxy = await worker({ vars: VARS });
  const upgrade = (token) =>
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(proxy.origin);
      const socket = net.connect(Number(port), hostname, () =>
        socket.write(
          "GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
            `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${Buffer.alloc(16, 7).toString("base64")}\r\n` +
            `Authorization: Bearer ${token}\r\n\r\n`,
        ),
      );
      after(() => socket.destroy());
      socket.once("data", (data) => resolve(data.toString()));
      socket.once("error", reject);
    });
  assert.match(await withTimeout(upgrade("tok-b"), "a socket"), /^HTTP\/1\.1 101 /);
  assert.equal(upstream.last.headers.authorization, undefined);
  assert.match(await withTimeout(upgrade("tok-c"), "a refusal"), /^HTTP\/1\.1 401 /);
});

test("the refusal is the same for every wrong token", async () => {
  const proxy = await worker({ vars: VARS });
  const wrong = ["", "x", "tok", "tok-", "tok-c", "tok-a,", "tok-a,tok-b", "Tok-a", "x".repeat(8000)];
  const replies = await Promise.all(wrong.map((token) => ask(proxy, { authorization: `Bearer ${token}` })));
  const [first, ...others] = replies.map(({ status, body, headers }) => [
    status,
    body.toString(),
    cacheStatusOf({ headers }),
  ]);
  assert.equal(first[0], 401);
  for (const other of others) assert.deepEqual(other, first);
});

test("each client may send as many requests as the binding allows, hits and bypasses included", async () => {
  const proxy = await worker({ vars: VARS, rateLimit: 3 });
  await withinOneWindow(() => assertLimited(proxy));
});

async function assertLimited(proxy) {
  await proxy.clear();
  upstream.reset();
  const limited = (reply) => {
    assert.equal(reply.status, 429);
    assertProxyError(reply, "rate_limit_exceeded");
    assert.equal(detailOf(reply), "rate-limited");
    assert.equal(reply.headers["retry-after"], "10");
  };
  const models = (token) =>
    send(proxy.origin, { method: "GET", path: "/proxy/models", headers: { authorization: `Bearer ${token}` } });
  for (const cache of ["MISS", "HIT"]) {
    assert.equal(xCacheStatusOf(await proxy.settled(() => ask(proxy, { "x-api-key": "tok-a" }))), cache);
  }
  assert.equal((await models("tok-a")).status, 200);
  limited(await ask(proxy, { "x-api-key": "tok-a" }));
  limited(await models("tok-a"));
  // Another credential beside the token makes no difference.
  limited(await ask(proxy, { "x-api-key": "tok-a", authorization: "Bearer sk-other" }));
  assert.equal(upstream.calls.length, 2);
  assert.equal((await ask(proxy, { "x-api-key": "tok-b" })).status, 200);
  assert.doesNotMatch(proxy.output, /tok-/);
}

test("without tokens clients are limited by credential, and without credentials by address", async () => {
  const { PROXY_TOKENS, ...open } = VARS;
  const proxy = await worker({ vars: open, rateLimit: 1 });
  await withinOneWindow(async () => {
    const statuses = [];
    for (const headers of [
      { authorization: "Bearer a" },
      { authorization: "Bearer a" },
      { authorization: "Bearer b" },
      { "cf-connecting-ip": "192.0.2.1" },
      { "cf-connecting-ip": "192.0.2.1" },
      { "cf-connecting-ip": "192.0.2.2" },
    ]) {
      statuses.push((await ask(proxy, headers)).status);
    }
    assert.deepEqual(statuses, [200, 429, 200, 200, 429, 200]);
  });
});

test("a failing rate limit lets every request pass", async () => {
  const proxy = await worker({ vars: VARS, rateLimit: "broken" });
  for (const cache of ["MISS", "HIT", "HIT"]) {
    assert.equal(xCacheStatusOf(await proxy.settled(() => ask(proxy, { "x-api-key": "tok-a" }))), cache);
  }
});
