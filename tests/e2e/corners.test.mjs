// Requests and answers at the edges of HTTP that the exchange table cannot say.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { raw, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

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

test("a GET whose body is empty is a GET", async () => {
  const reply = await send(proxy.origin, { method: "GET", path: "/proxy/models", headers: { ...json, "content-length": "0" } });
  assert.equal(reply.status, 200);
  assert.equal(upstream.calls.length, 1);
});

test("a GET with a body is told what to do", async () => {
  const reply = await send(proxy.origin, { method: "GET", path: "/proxy/models", headers: json, body: "{}" });
  assert.equal(reply.status, 400);
  expect.proxyError(reply, "body_not_allowed");
  assert.equal(upstream.calls.length, 0);
});

// A question with a header in Latin-1, as some clients send it; no HTTP library here would.
const latin1 = (header) =>
  raw(
    proxy.origin,
    Buffer.from(
      "POST /proxy/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n" +
        `content-length: 2\r\n${header}\r\n\r\n{}`,
      "latin1",
    ),
  );

test("a namespace in Latin-1, which cannot be told from another, is refused", async () => {
  const reply = (await latin1("x-proxy-namespace: \xe4")).toString();
  assert.match(reply, /^HTTP\/1\.1 400 /);
  assert.match(reply, /x-proxy-namespace/);
  assert.equal(upstream.calls.length, 0);
});

test("a credential in Latin-1, which cannot be told from another, is passed on and nothing is kept", async () => {
  for (const key of ["\xe4", "\xf6"]) {
    const reply = (await latin1(`authorization: Bearer ${key}`)).toString();
    assert.match(reply, /^HTTP\/1\.1 200 /);
    assert.match(reply, /x-cache-status: BYPASS/i);
    assert.match(reply, /detail=invalid-header/);
  }
  assert.equal(upstream.calls.length, 2);
  assert.deepEqual(await proxy.entries(), []);
});

test("two namespaces in UTF-8 are two", async () => {
  const ask = (namespace) =>
    proxy.settled(() =>
      send(proxy.origin, {
        path: "/proxy/chat/completions",
        headers: { ...json, "x-proxy-namespace": Buffer.from(namespace).toString("latin1") },
        body: "{}",
      }),
    );
  const statuses = [];
  for (const namespace of ["ä", "ö", "ä"]) statuses.push((await ask(namespace)).headers["x-cache-status"]);
  assert.deepEqual(statuses, ["MISS", "MISS", "HIT"]);
});

for (const status of [600, 999]) {
  test(`an upstream that answers ${status} is broken`, async () => {
    upstream.otherwise((call, response) => {
      response.socket.end(`HTTP/1.1 ${status} Odd\r\ncontent-length: 0\r\n\r\n`);
    });
    const reply = await proxy.settled(() => send(proxy.origin, { path: "/proxy/chat/completions", headers: json, body: "{}" }));
    assert.equal(reply.status, 502);
    expect.proxyError(reply, "upstream_unreachable");
    assert.match(reply.headers["cache-status"], /^reprise; fwd=uri-miss/);
  });
}
