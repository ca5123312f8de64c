// Streams while they run: nothing held back, nothing lost when the client leaves, nothing incomplete stored.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import net from "node:net";
import { after, before, beforeEach, test } from "node:test";
import { open, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const event = (content, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content }, finish_reason }] })}\n\n`;
const DONE = "data: [DONE]\n\n";

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, IDLE_TIMEOUT: "1" } });
});
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});
after(() => upstream.close());

const question = {
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
  body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content: "Hi" }] }),
};
const ask = () => proxy.settled(() => send(proxy.origin, question));

test("each piece reaches the client while the next is held back, and the whole is stored", async () => {
  const stream = commandedStream();
  upstream.next(stream.answer);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, question);
  const pieces = [event("a"), event("b"), event("", "stop"), DONE];
  for (const piece of pieces) {
    await stream.send(piece);
    let got = "";
    while (got.length < piece.length) got += (await reply.next()).toString();
    assert.equal(got, piece);
  }
  await stream.end();
  assert.equal(await reply.next(), null);
  assert.equal((await proxy.logged(logged)).reason, null);
  const repeat = await ask();
  assert.equal(repeat.headers["x-cache-status"], "HIT");
  assert.equal(repeat.body.toString(), pieces.join(""));
  assert.equal(upstream.calls.length, 1);
});

for (const COALESCE of ["true", "false"]) {
  test(`a stream far longer than what is kept, or looked at, reaches its client whole (COALESCE=${COALESCE})`, async () => {
    const small = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, CACHE_MAX_BYTES: "1000", COALESCE } });
    const body = Buffer.from(event("x".repeat(60_000)).repeat(400) + DONE);
    upstream.next({ headers: { "content-type": "text/event-stream" }, body });
    const logged = small.lines.length + 1;
    const reply = await send(small.origin, question);
    expect.sameBytes(reply.body, body, "the answer");
    assert.equal((await small.logged(logged)).reason, "too-large");
    assert.deepEqual(await small.entries(), []);
  });
}

test("the head reaches the client before the first byte of the body", async () => {
  const stream = commandedStream();
  upstream.next(stream.answer);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, question);
  assert.equal(reply.status, 200);
  await stream.send(DONE);
  await stream.end();
  await proxy.logged(logged);
});

for (const when of ["before the head", "after the first piece"]) {
  test(`a client that leaves ${when} does not spoil the entry`, async () => {
    const stream = commandedStream();
    const logged = proxy.lines.length + 1;
    if (when === "before the head") {
      const gone = new Promise((resolve) => {
        upstream.next(async (call, response) => {
          await gone;
          return stream.answer(call, response);
        });
        const { hostname, port } = new URL(proxy.origin);
        const socket = net.connect(Number(port), hostname);
        const { path, headers, body } = question;
        const lines = Object.entries({ host: hostname, "content-length": body.length, ...headers }).map((pair) => pair.join(": "));
        socket.write(`POST ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${body}`);
        upstream.asked(1).then(() => socket.destroy());
        socket.once("close", resolve);
      });
      await gone;
    } else {
      upstream.next(stream.answer);
      const reply = await open(proxy.origin, question);
      await stream.send(event("a"));
      await reply.next();
      reply.leave();
    }
    await stream.begun;
    await stream.send(event("b") + event("", "stop") + DONE);
    await stream.end();
    assert.equal((await proxy.logged(logged)).reason, null);
    const repeat = await ask();
    assert.equal(repeat.headers["x-cache-status"], "HIT");
    assert.ok(repeat.body.toString().endsWith(event("b") + event("", "stop") + DONE));
    assert.equal(upstream.calls.length, 1);
  });
}

// The streams of the cases, one for each protocol.
const { cases } = JSON.parse(readFileSync(new URL("../../conformance/cases/reprise/streaming.json", import.meta.url), "utf8"));
for (const { id, vars = {}, steps } of cases.filter(({ id }) => /^stream-.*-replayed$/.test(id))) {
  test(`${id.split("-").slice(1, -1).join(" ")}: a client that leaves does not spoil the entry`, async () => {
    const base = (vars.OPENAI_BASE_URL ?? "{upstream}/v1").replace("{upstream}", upstream.origin);
    const proxy = await worker({ vars: { OPENAI_BASE_URL: base } });
    await proxy.clear();
    const [{ request, response: said }] = steps;
    const asked = { ...question, path: request.path ?? "/proxy/chat/completions", body: JSON.stringify(request.json) };
    const half = said.body.length >> 1;
    const stream = commandedStream({ headers: said.headers });
    upstream.next(stream.answer);
    const logged = proxy.lines.length + 1;
    const reply = await open(proxy.origin, asked);
    await stream.send(said.body.slice(0, half));
    await reply.next();
    reply.leave();
    await stream.send(said.body.slice(half));
    await stream.end();
    assert.equal((await proxy.logged(logged)).reason, null);
    const repeat = await proxy.settled(() => send(proxy.origin, asked));
    assert.equal(repeat.headers["x-cache-status"], "HIT");
    assert.equal(repeat.body.toString(), said.body);
    assert.equal(upstream.calls.length, 1);
  });
}

test("a stream that stalls is not stored, and the log says why", async () => {
  const stream = commandedStream();
  upstream.next(stream.answer);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, question);
  await stream.send(event("a"));
  await reply.next();
  assert.equal((await proxy.logged(logged)).reason, "stalled");
  assert.deepEqual(await proxy.entries(), []);
  reply.leave();
});

test("a stream that breaks off breaks off for the client too", async () => {
  const stream = commandedStream();
  upstream.next(stream.answer);
  const logged = proxy.lines.length + 1;
  const reply = await open(proxy.origin, question);
  await stream.send(event("a"));
  await reply.next();
  stream.cut();
  await assert.rejects(reply.next(), { code: "ECONNRESET" });
  assert.equal((await proxy.logged(logged)).reason, "truncated");
  assert.deepEqual(await proxy.entries(), []);
});
