// `wrangler dev` on the project's own wrangler.toml: what `npm start` serves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatRequest } from "../../testkit/fixtures.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { waitFor } from "../../testkit/wait.mjs";
import { startWranglerDev } from "../../testkit/worker.mjs";

// `wrangler dev` gives every OPTIONS request a body, if only in name.
test("a browser's preflight passes wrangler dev, with PROXY_TOKENS and without one of them", async (t) => {
  const upstream = await startUpstream();
  t.after(() => upstream.close());
  const dev = await startWranglerDev({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, PROXY_TOKENS: "token" } });
  t.after(() => dev.stop());
  upstream.otherwise({ status: 204, headers: { "access-control-allow-origin": "*" } });
  const preflight = (fields, path = "/proxy/chat/completions") =>
    send(dev.url, {
      method: "OPTIONS",
      path,
      headers: {
        origin: "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": fields,
      },
    });

  const passed = await preflight("authorization,content-type");
  assert.equal(passed.status, 204);
  assert.equal(upstream.calls.length, 1);
  const own = await preflight("authorization,x-proxy-ttl");
  assert.equal(own.status, 204);
  assert.equal(own.headers["access-control-allow-headers"], "authorization,x-proxy-ttl");
  assert.equal(upstream.calls.length, 1, "the proxy responds for its own headers");
  // A browser shows an error to a script only if it may.
  const refused = await send(dev.url, chatRequest("Hi", { key: "wrong", headers: { origin: "https://app.example" } }));
  assert.equal(refused.status, 401);
  assert.equal(refused.headers["access-control-allow-origin"], "*");
  assert.equal(upstream.calls.length, 1);
});

test("wrangler dev serves requests, and a repeat is a hit", async (t) => {
  const upstream = await startUpstream();
  t.after(() => upstream.close());
  const dev = await startWranglerDev({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1` } });
  t.after(() => dev.stop());
  const ask = () => send(dev.url, chatRequest("Hi", { model: "gpt-4o" }));

  const alive = await send(dev.url, { method: "GET", path: "/healthz" });
  assert.equal(alive.body.toString(), '{"ok":true}');

  upstream.otherwise({ body: '{ "choices" : [ { "text" : "answer" } ] }\n' });
  const first = await ask();
  assert.equal(first.status, 200);
  assert.equal(xCacheStatusOf(first), "MISS");
  assert.equal(first.body.toString(), '{ "choices" : [ { "text" : "answer" } ] }\n');
  // The entry is written after the first response: repeat until it is there. The upstream counts the repeats.
  const hit = await waitFor(async () => {
    const reply = await ask();
    assert.equal(reply.status, 200);
    return xCacheStatusOf(reply) === "HIT" && reply;
  }, "a hit");
  assertSameBytes(hit.body, first.body, "the repeat");
  const calls = upstream.calls.length;
  assert.equal(xCacheStatusOf(await ask()), "HIT");
  assert.equal(upstream.calls.length, calls, "a hit called the upstream");
});
