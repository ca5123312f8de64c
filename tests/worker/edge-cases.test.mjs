// Unusual HTTP messages that the exchange cases cannot express.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { assertProxyError } from "../../testkit/assertions.mjs";
import { cacheStatusOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send, sendRaw } from "../../testkit/client.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, BASE_RETRY_DELAY: "0.01" } });
});
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});
after(() => upstream.close());

const json = { "content-type": "application/json", authorization: "Bearer sk-test" };

test("a GET with an empty body is an ordinary GET", async () => {
  const reply = await send(proxy.origin, {
    method: "GET",
    path: "/proxy/models",
    headers: { ...json, "content-length": "0" },
  });
  assert.equal(reply.status, 200);
  assert.equal(upstream.calls.length, 1);
});

test("a GET with a body is refused with an explanation", async () => {
  const reply = await send(proxy.origin, { method: "GET", path: "/proxy/models", headers: json, body: "{}" });
  assert.equal(reply.status, 400);
  assertProxyError(reply, "body_not_allowed");
  assert.equal(upstream.calls.length, 0);
});

// Sends a header in Latin-1, as some clients do and no HTTP library here would.
const latin1 = (header) =>
  sendRaw(
    proxy.origin,
    Buffer.from(
      "POST /proxy/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n" +
        `content-length: 2\r\n${header}\r\n\r\n{}`,
      "latin1",
    ),
  );

test("a namespace in Latin-1 is refused, because it cannot be told from another", async () => {
  const reply = (await latin1("x-proxy-namespace: \xe4")).toString();
  assert.match(reply, /^HTTP\/1\.1 400 /);
  assert.match(reply, /x-proxy-namespace/);
  assert.equal(upstream.calls.length, 0);
});

test("a credential in Latin-1 bypasses the cache, because it cannot be told from another", async () => {
  for (const key of ["\xe4", "\xf6"]) {
    const reply = (await latin1(`authorization: Bearer ${key}`)).toString();
    assert.match(reply, /^HTTP\/1\.1 200 /);
    assert.match(reply, /x-cache-status: BYPASS/i);
    assert.match(reply, /detail=invalid-header/);
  }
  assert.equal(upstream.calls.length, 2);
  assert.deepEqual(await proxy.entries(), []);
});

test("two namespaces in UTF-8 are separate", async () => {
  const ask = (namespace) =>
    proxy.settled(() =>
      send(proxy.origin, {
        path: "/proxy/chat/completions",
        headers: { ...json, "x-proxy-namespace": Buffer.from(namespace).toString("latin1") },
        body: "{}",
      }),
    );
  const statuses = [];
  for (const namespace of ["ä", "ö", "ä"]) statuses.push(xCacheStatusOf(await ask(namespace)));
  assert.deepEqual(statuses, ["MISS", "MISS", "HIT"]);
});

for (const status of [600, 999]) {
  test(`an upstream response with the status ${status} is a 502`, async () => {
    upstream.otherwise((_call, response) => {
      response.socket.end(`HTTP/1.1 ${status} Odd\r\ncontent-length: 0\r\n\r\n`);
    });
    const reply = await proxy.settled(() =>
      send(proxy.origin, { path: "/proxy/chat/completions", headers: json, body: "{}" }),
    );
    assert.equal(reply.status, 502);
    assertProxyError(reply, "upstream_unreachable");
    assert.equal(cacheStatusOf(reply).fwd, "uri-miss");
  });
}
