// A wasm instance that traps is replaced, under the Durable Objects that began with it too.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { send } from "../../testkit/client.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

test("a Durable Object coalesces requests after its wasm instance has trapped", async () => {
  const vars = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", COALESCE: "true" };
  const proxy = await worker({ vars, trap: "/proxy/trap" });
  const ask = () =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-a" },
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "once" }] }),
    });
  // The error is not stored: the next request for the same key reaches the same object.
  upstream.next({ status: 400, body: '{"error":{}}', headers: { "content-type": "application/json" } });
  assert.equal((await ask()).status, 400);
  for (let round = 1; round <= 2; round += 1) {
    const trap = { path: "/proxy/trap", headers: { "content-type": "text/plain" }, body: "x" };
    assert.equal((await send(proxy.origin, trap)).status, 500);
    upstream.reset();
    let release;
    const hold = new Promise((resolve) => (release = resolve));
    const headers = { "content-type": "application/json" };
    upstream.next({ status: 400, body: `{"error":{"round":${round}}}`, headers, hold });
    const replies = [ask(), ask()];
    await withTimeout(upstream.received(1), "the call to arrive");
    release();
    for (const reply of await Promise.all(replies)) assert.equal(reply.body.toString(), `{"error":{"round":${round}}}`);
    assert.equal(upstream.calls.length, 1);
  }
});
