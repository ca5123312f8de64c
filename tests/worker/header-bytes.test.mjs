// Header values that are not UTF-8 pass byte for byte in both directions, although the runtime cannot read them.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const proxy = await worker({
  vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, BASE_RETRY_DELAY: "0.01", RATE_LIMIT_WAIT: "0.01" },
});
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});

// node:http sends and receives these as Latin-1: one character for each byte.
const BYTES = ["caf\xe9", "\xff\xfe \x80", "\xc3\xa9 \xe9", "\xed\xa0\x80", "\xef\xbf\xbd", "\xc3\xa9"];

const valuesOf = ({ rawHeaders }, name) =>
  rawHeaders.filter((_, at) => at % 2 === 1 && rawHeaders[at - 1].toLowerCase() === name);

const ask = (request) => proxy.settled(() => send(proxy.origin, request));

for (const value of BYTES) {
  const shown = Buffer.from(value, "latin1").toString("hex");

  test(`an unkeyed header reaches the upstream as ${shown}, and the request is cached`, async () => {
    const request = chatRequest("Hi", { headers: { "X-Title": value } });
    assert.equal(xCacheStatusOf(await ask(request)), "MISS");
    assert.deepEqual(valuesOf(upstream.last, "x-title"), [value]);
    const other = chatRequest("Hi", { headers: { "X-Title": `${value}2` } });
    assert.equal(xCacheStatusOf(await ask(other)), "HIT");
  });

  test(`a keyed header reaches the upstream as ${shown}, also twice`, async () => {
    await ask(chatRequest("Hi", { headers: { "X-Policy": [value, "b"] } }));
    assert.deepEqual(valuesOf(upstream.last, "x-policy").join(", "), `${value}, b`);
  });

  test(`headers of a request without a body reach the upstream as ${shown}`, async () => {
    await ask({ method: "GET", path: "/proxy/models", headers: { "x-policy": value, cookie: value } });
    assert.deepEqual(valuesOf(upstream.last, "x-policy"), [value]);
    assert.deepEqual(valuesOf(upstream.last, "cookie"), []);
  });

  test(`a retry sends ${shown} again`, async () => {
    upstream.next({ status: 503, json: {} });
    await ask(chatRequest("Hi", { headers: { "user-agent": value } }));
    assert.deepEqual(
      upstream.calls.map((call) => valuesOf(call, "user-agent")),
      [[value], [value]],
    );
  });

  test(`a response header reaches the client as ${shown}, on a miss and on the next request`, async () => {
    upstream.otherwise({ headers: { "X-Region": value }, body: resultText("a") });
    for (const name of ["first", "second"]) {
      assert.deepEqual(valuesOf(await ask(chatRequest("Hi")), "x-region"), [value], name);
    }
  });

  test(`a response header reaches the client as ${shown} past the cache, also on an error`, async () => {
    upstream.next({ headers: { "X-Region": value } }, { status: 400, headers: { "X-Region": value } });
    for (const _ of ["success", "error"]) {
      const reply = await ask({ path: "/proxy/files", headers: { authorization: "Bearer k" }, body: "x" });
      assert.deepEqual(valuesOf(reply, "x-region"), [value]);
    }
  });

  test(`a follower of an error gets a response header as ${shown}`, async () => {
    const release = upstream.holdNext({
      status: 400,
      headers: { "X-Region": value },
      json: { error: { message: "m" } },
    });
    upstream.otherwise({ status: 400, headers: { "X-Region": value }, json: { error: { message: "m" } } });
    const leader = send(proxy.origin, chatRequest("Hi"));
    await upstream.received(1);
    const follower = send(proxy.origin, chatRequest("Hi"));
    release();
    for (const reply of await Promise.all([leader, follower])) {
      assert.deepEqual(valuesOf(reply, "x-region"), [value]);
    }
    await proxy.logged(proxy.lines.length);
  });

  test(`a stream's followers get a response header as ${shown}`, async () => {
    let release;
    const held = new Promise((resolve) => {
      release = resolve;
    });
    const stream = [chatEvent({ content: "a" }), chatEvent({}, "stop") + DONE];
    upstream.otherwise({ headers: { ...EVENT_STREAM, "X-Region": value }, chunks: stream, hold: held });
    const request = chatRequest("Hi", { stream: true });
    const first = send(proxy.origin, request);
    await upstream.received(1);
    const second = send(proxy.origin, request);
    release();
    for (const reply of await Promise.all([first, second])) {
      assert.deepEqual(valuesOf(reply, "x-region"), [value]);
    }
  });
}

test("a response with a header that cannot be stored as it is says so in the log", async () => {
  upstream.otherwise({ headers: { "X-Region": "Z\xfcrich" }, body: resultText("a") });
  await ask(chatRequest("Hi"));
  assert.equal(proxy.lines.at(-1)?.reason, "invalid-header");
  assert.deepEqual(await proxy.entries(), []);
});

test("a header in UTF-8 is stored", async () => {
  upstream.otherwise({ headers: { "X-Region": Buffer.from("Zürich").toString("latin1") }, body: resultText("a") });
  await ask(chatRequest("Hi"));
  const hit = await ask(chatRequest("Hi"));
  assert.equal(xCacheStatusOf(hit), "HIT");
  assert.deepEqual(valuesOf(hit, "x-region"), ["Z\xc3\xbcrich"]);
});

test("a proxy token beside an unreadable value is removed", async () => {
  const closed = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, PROXY_TOKENS: "secret-token" } });
  const headers = {
    authorization: "Bearer secret-token",
    "x-auth-token": ["secret-token", "\xe9"],
    "x-policy": "\xe9",
  };
  await closed.settled(() => send(closed.origin, chatRequest("Hi", { key: null, headers })));
  assert.ok(!JSON.stringify(upstream.last.rawHeaders).includes("secret-token"), String(upstream.last.rawHeaders));
  assert.deepEqual(valuesOf(upstream.last, "x-policy"), ["\xe9"]);
});

test("two unreadable values of a keyed header never share an entry", async () => {
  for (const value of ["\xe4", "\xf6"]) {
    const reply = await ask(chatRequest("Hi", { headers: { "x-policy": value } }));
    assert.equal(xCacheStatusOf(reply), "BYPASS");
    assert.equal(detailOf(reply), "invalid-header");
  }
  assert.equal(upstream.calls.length, 2);
});
