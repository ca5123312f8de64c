// A coalesced client in another mode than its leader: it gets a live response if it can be converted, and does not wait for one that cannot.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { cacheStatusOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readRest, readText, send } from "../../testkit/client.mjs";
import {
  chatChunk,
  chatCompletion,
  chatEvent,
  chatRequest,
  DONE,
  EVENT_STREAM,
  sseEvent,
  textOfStream,
} from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", COALESCE: "true" };
const proxy = await worker({ vars: VARS });
const thinking = await worker({ vars: { ...VARS, STRIP_THINK: "true" } });
beforeEach(() => upstream.reset());

let prompts = 0;
const freshPrompt = () => `prompt ${(prompts += 1)}`;
const plain = (prompt) => chatRequest(prompt);
const streaming = (prompt) => chatRequest(prompt, { stream: true });
const withUsage = (prompt) => chatRequest(prompt, { stream: true, stream_options: { include_usage: true } });

const TEXT = [chatEvent({ content: "a" }, null, { usage: null }), chatEvent({ content: "b" }, null, { usage: null })];
const END = chatEvent({}, "stop", { usage: null });
const usageEvent = (more = {}) => sseEvent({ ...chatChunk({}), choices: [], usage: { total_tokens: 3 }, ...more });

/** A leader that has sent `request`, and its upstream stream. */
async function lead(request, origin = proxy.origin) {
  const stream = controlledStream();
  upstream.next(stream.respond);
  const reply = await open(origin, request);
  return { stream, reply };
}

test("a follower that did not ask for usage gets the stream live, without the usage", async () => {
  const prompt = freshPrompt();
  const { stream, reply } = await lead(withUsage(prompt));
  const follower = await open(proxy.origin, streaming(prompt));
  for (const event of [...TEXT, END]) {
    await stream.send(event);
    assert.equal(await readText(reply, event.length), event);
    assert.equal(await readText(follower, event.length), event);
  }
  const usage = usageEvent();
  await stream.send(usage.slice(0, 20));
  await stream.send(usage.slice(20) + DONE);
  await stream.end();
  assert.equal((await readRest(reply)).toString(), usage + DONE);
  assert.equal((await readRest(follower)).toString(), DONE);
  assert.equal(xCacheStatusOf(follower), "COALESCED");
  assert.equal(cacheStatusOf(follower).collapsed, true);
  assert.equal(upstream.calls.length, 1);
});

test("what only the usage chunk has reaches a follower that did not ask for usage", async () => {
  const prompt = freshPrompt();
  const { stream } = await lead(withUsage(prompt));
  const follower = await open(proxy.origin, streaming(prompt));
  await stream.send(TEXT[0] + END + usageEvent({ citations: ["x"] }) + DONE);
  await stream.end();
  const rest = (await readRest(follower)).toString();
  assert.ok(rest.includes('"citations":["x"]') && rest.endsWith(DONE), rest);
  assert.ok(!rest.includes("total_tokens"), rest);
});

test("usage is taken out before the operator's own transform", async () => {
  const prompt = freshPrompt();
  const { stream } = await lead(withUsage(prompt), thinking.origin);
  const follower = await open(thinking.origin, streaming(prompt));
  await stream.send(chatEvent({ content: "<think>x</think>" }) + TEXT[0] + END + usageEvent() + DONE);
  await stream.end();
  const rest = (await readRest(follower)).toString();
  assert.equal(textOfStream(rest), "a");
  assert.ok(!rest.includes("total_tokens") && rest.endsWith(DONE), rest);
});

test("a follower that did not request usage gets a stream if the upstream responds with an object", async () => {
  const prompt = freshPrompt();
  const release = upstream.holdNext({ json: chatCompletion("Hello", { usage: { total_tokens: 3 } }) });
  const leader = send(proxy.origin, withUsage(prompt));
  await upstream.received(1);
  const follower = send(proxy.origin, streaming(prompt));
  release();
  assert.deepEqual(JSON.parse((await leader).body.toString()).usage, { total_tokens: 3 });
  const { body } = await follower;
  assert.equal(textOfStream(body.toString()), "Hello");
  assert.ok(!body.includes("total_tokens"), body.toString());
  assert.equal(upstream.calls.length, 1);
});

const UNCONVERTIBLE = {
  "a change of the id": chatEvent({ content: "b" }, null, { id: "d" }),
  "a tool call without an index": chatEvent({ tool_calls: [{ id: "t", function: { name: "f" } }] }),
  "changing citations": chatEvent({}, null, { citations: ["x"] }) + chatEvent({}, null, { citations: ["y"] }),
  "an error": sseEvent({ error: { message: "m" } }),
  "more than can be converted": `:${"x".repeat(3 << 20)}\n\n`,
};
for (const [what, event] of Object.entries(UNCONVERTIBLE)) {
  test(`plain followers do not wait for the end of a stream with ${what}`, async () => {
    const prompt = freshPrompt();
    const { stream, reply } = await lead(streaming(prompt));
    const followers = [plain(prompt), plain(prompt)].map((request) => send(proxy.origin, request));
    await stream.send(TEXT[0]);
    assert.equal(await readText(reply, TEXT[0].length), TEXT[0]);
    assert.equal(upstream.count, 1);
    upstream.otherwise({ json: chatCompletion("Hello") });
    const rest = readRest(reply);
    await stream.send(event);
    const replies = await withTimeout(Promise.all(followers), "the followers' responses while the stream is open");
    for (const { body } of replies) assert.equal(JSON.parse(body.toString()).choices[0].message.content, "Hello");
    assert.equal(upstream.calls.length, 2, "the followers share one request");
    assert.deepEqual(replies.map(xCacheStatusOf).sort(), ["COALESCED", "MISS"]);
    await stream.send(END + DONE);
    await stream.end();
    assert.equal((await rest).toString(), event + END + DONE);
  });
}

test("plain followers wait for a stream that can be converted", async () => {
  const prompt = freshPrompt();
  const { stream } = await lead(streaming(prompt));
  const followers = [plain(prompt), plain(prompt)].map((request) => send(proxy.origin, request));
  await stream.send(TEXT[0]);
  await stream.send(END + DONE);
  await stream.end();
  for (const { body } of await Promise.all(followers)) {
    assert.equal(JSON.parse(body.toString()).choices[0].message.content, "a");
  }
  assert.equal(upstream.calls.length, 1);
});

test("a client that requests usage gets a request of its own, if its leader has not", async () => {
  const prompt = freshPrompt();
  const { stream } = await lead(streaming(prompt));
  upstream.next({ headers: EVENT_STREAM, body: TEXT[0] + END + usageEvent() + DONE });
  const { body } = await send(proxy.origin, withUsage(prompt));
  assert.equal(body.toString(), TEXT[0] + END + usageEvent() + DONE);
  await stream.end();
});

test("a stream that is too large to store is aborted at the chunk after its last reader, although a plain follower waited", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "300" } });
  const prompt = freshPrompt();
  const { stream, reply } = await lead(streaming(prompt), small.origin);
  upstream.otherwise({ json: chatCompletion("Hello") });
  const follower = send(small.origin, plain(prompt));
  const call = await stream.started;
  await stream.send(TEXT[0]);
  assert.equal(await readText(reply, TEXT[0].length), TEXT[0]);
  await stream.send(chatEvent({ content: "x".repeat(400) }));
  assert.equal(JSON.parse((await follower).body.toString()).choices[0].message.content, "Hello");
  reply.disconnect();
  // The runtime cancels a stream only after the read that is under way.
  await stream.send(chatEvent({ content: "y" })).catch(() => {});
  await withTimeout(call.disconnected, "the upstream's stream to be aborted");
});
