// A wasm instance that traps is replaced, under the Durable Objects that began with it too.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readRest, send } from "../../testkit/client.mjs";
import { chatEvent } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

test("a Durable Object coalesces requests after its wasm instance has trapped", async () => {
  const vars = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", COALESCE: "true" };
  const proxy = await worker({ vars, trap: "/proxy/trap" });
  const request = {
    path: "/proxy/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer sk-a" },
    body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "once" }], stream: true }),
  };
  // Nothing is stored, neither an error nor a stream without its end: each request for the key reaches the same object.
  upstream.next({ status: 400, body: '{"error":{}}', headers: { "content-type": "application/json" } });
  assert.equal((await send(proxy.origin, request)).status, 400);
  for (let round = 1; round <= 2; round += 1) {
    const trap = { path: "/proxy/trap", headers: { "content-type": "text/plain" }, body: "x" };
    assert.equal((await send(proxy.origin, trap)).status, 500);
    upstream.reset();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const replies = [await open(proxy.origin, request), await open(proxy.origin, request)];
    assert.deepEqual(replies.map(xCacheStatusOf), ["MISS", "COALESCED"]);
    const event = chatEvent({ content: `round ${round}` });
    await stream.send(event);
    for (const reply of replies) assert.equal((await reply.next()).toString(), event);
    assert.equal(upstream.calls.length, 1);
    await stream.end();
    for (const reply of replies) await readRest(reply).catch(() => {});
  }
});
