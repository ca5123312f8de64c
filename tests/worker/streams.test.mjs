// Streams in progress: nothing is buffered, nothing is lost if the client disconnects, nothing truncated is stored.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import net from "node:net";
import { after, before, beforeEach, test } from "node:test";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readText, send } from "../../testkit/client.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { deferred, withTimeout } from "../../testkit/wait.mjs";

const event = (content, finish_reason = null) => chatEvent({ content }, finish_reason);

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1` } });
});
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});
after(() => upstream.close());

const request = chatRequest("Hi", { stream: true });
const ask = () => proxy.settled(() => send(proxy.origin, request));

test("each event reaches the client before the next is sent, and the stream is stored", async () => {
  const stream = controlledStream();
  upstream.next(stream.respond);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, request);
  const events = [event("a"), event("b"), event("", "stop"), DONE];
  for (const sent of events) {
    await stream.send(sent);
    assert.equal(await readText(reply, sent.length), sent);
  }
  await stream.end();
  assert.equal(await reply.next(), null);
  assert.equal((await proxy.logged(logged)).reason, null);
  const repeat = await ask();
  assert.equal(xCacheStatusOf(repeat), "HIT");
  assert.equal(repeat.body.toString(), events.join(""));
  assert.equal(upstream.calls.length, 1);
});

for (const COALESCE of ["true", "false"]) {
  test(`a stream that is too large to store reaches its client complete (COALESCE=${COALESCE})`, async () => {
    const small = await worker({
      vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, CACHE_MAX_BYTES: "1000", COALESCE },
    });
    const body = Buffer.from(event("x".repeat(60_000)).repeat(400) + DONE);
    upstream.next({ headers: EVENT_STREAM, body });
    const logged = small.lines.length + 1;
    const reply = await send(small.origin, request);
    assertSameBytes(reply.body, body, "the response");
    assert.equal((await small.logged(logged)).reason, "too-large");
    assert.deepEqual(await small.entries(), []);
  });
}

test("the head reaches the client before the first byte of the body", async () => {
  const stream = controlledStream();
  upstream.next(stream.respond);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, request);
  assert.equal(reply.status, 200);
  await stream.send(DONE);
  await stream.end();
  await proxy.logged(logged);
});

for (const when of ["before the head", "after the first chunk"]) {
  test(`if the client disconnects ${when}, the response is still stored`, async () => {
    const stream = controlledStream();
    const logged = proxy.lines.length + 1;
    if (when === "before the head") {
      const disconnected = deferred();
      upstream.next(async (call, response) => {
        await disconnected.promise;
        return stream.respond(call, response);
      });
      const { hostname, port } = new URL(proxy.origin);
      const socket = net.connect(Number(port), hostname);
      const { path, headers, body } = request;
      const lines = Object.entries({ host: hostname, "content-length": body.length, ...headers }).map((pair) =>
        pair.join(": "),
      );
      socket.write(`POST ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${body}`);
      socket.once("close", disconnected.resolve);
      await upstream.received(1);
      socket.destroy();
      await withTimeout(disconnected.promise, "the client to disconnect");
    } else {
      upstream.next(stream.respond);
      const reply = await open(proxy.origin, request);
      await stream.send(event("a"));
      await reply.next();
      reply.disconnect();
    }
    await stream.started;
    await stream.send(event("b") + event("", "stop") + DONE);
    await stream.end();
    assert.equal((await proxy.logged(logged)).reason, null);
    const repeat = await ask();
    assert.equal(xCacheStatusOf(repeat), "HIT");
    assert.ok(repeat.body.toString().endsWith(event("b") + event("", "stop") + DONE));
    assert.equal(upstream.calls.length, 1);
  });
}

// The streams of the cases, one for each protocol.
const file = new URL("../../conformance/cases/reprise/streaming.json", import.meta.url);
const { cases } = JSON.parse(readFileSync(file, "utf8"));
for (const { id, vars = {}, steps } of cases.filter(({ id }) => /^stream-.*-replayed$/.test(id))) {
  test(`${id.split("-").slice(1, -1).join(" ")}: if the client disconnects, the response is still stored`, async () => {
    const base = (vars.OPENAI_BASE_URL ?? "{upstream}/v1").replace("{upstream}", upstream.origin);
    const proxy = await worker({ vars: { OPENAI_BASE_URL: base } });
    await proxy.clear();
    const [{ request: described, response }] = steps;
    const sent = { ...request, path: described.path ?? request.path, body: JSON.stringify(described.json) };
    const half = response.body.length >> 1;
    const stream = controlledStream({ headers: response.headers });
    upstream.next(stream.respond);
    const logged = proxy.lines.length + 1;
    const reply = await open(proxy.origin, sent);
    await stream.send(response.body.slice(0, half));
    await reply.next();
    reply.disconnect();
    await stream.send(response.body.slice(half));
    await stream.end();
    assert.equal((await proxy.logged(logged)).reason, null);
    const repeat = await proxy.settled(() => send(proxy.origin, sent));
    assert.equal(xCacheStatusOf(repeat), "HIT");
    assert.equal(repeat.body.toString(), response.body);
    assert.equal(upstream.calls.length, 1);
  });
}

test("a stream that stalls is not stored, and the log gives the reason", async () => {
  const limited = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, IDLE_TIMEOUT: "1" } });
  await limited.clear();
  const stream = controlledStream();
  upstream.next(stream.respond);
  const logged = limited.lines.length + 1;
  const reply = await open(limited.origin, request);
  await stream.send(event("a"));
  await reply.next();
  assert.equal((await limited.logged(logged)).reason, "stalled");
  assert.deepEqual(await limited.entries(), []);
  reply.disconnect();
});

test("a truncated stream is truncated for the client, too", async () => {
  const stream = controlledStream();
  upstream.next(stream.respond);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, request);
  await stream.send(event("a"));
  await reply.next();
  stream.abort();
  await assert.rejects(reply.next(), { code: "ECONNRESET" });
  assert.equal((await proxy.logged(logged)).reason, "truncated");
  assert.deepEqual(await proxy.entries(), []);
});
