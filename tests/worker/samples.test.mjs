// Several responses to one request (specification, section 15), through the object that hands out the slots: in parallel, with
// both stores, in both modes, after failures, refreshes, expiry and deletion, and without the object.

import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatCompletion, chatEvent, chatRequest, DONE, EVENT_STREAM } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { waitFor } from "../../testkit/wait.mjs";

const N = 30;
const upstream = await startUpstream();
after(() => upstream.close());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", COALESCE: "true", COALESCE_TTL: "60" };

let sets = 0; // every test has a set of its own
const freshPrompt = () => `samples ${(sets += 1)}`;

beforeEach(() => {
  upstream.reset();
  upstream.otherwise((call) => ({ json: chatCompletion(`answer ${call.n}`) }));
});

/** Requests one of `samples` responses. */
const ask = (proxy, prompt, samples = N, { headers = {}, ...fields } = {}) =>
  send(proxy.origin, chatRequest(prompt, { headers: { "x-proxy-samples": String(samples), ...headers }, ...fields }));

const inParallel = (proxy, prompt, samples = N, options = {}) =>
  Promise.all(Array.from({ length: samples }, () => ask(proxy, prompt, samples, options)));

const bodiesOf = (replies) => new Set(replies.map(({ body }) => body.toString()));
const sampleOf = ({ headers }) => headers["x-cache-sample"];
/** The slots of a set of this size, as responses name them. */
const slotsOf = (samples) => Array.from({ length: samples }, (_, i) => `${i + 1}/${samples}`);

/** Sends requests until the responses of all slots are stored, so that none is being fetched. */
const untilStored = (proxy, prompt, samples = N) =>
  waitFor(async () => xCacheStatusOf(await ask(proxy, prompt, samples)) === "HIT", "a stored sample");

for (const store of ["kv", "upstash"]) {
  describe(`in parallel, with ${store}`, async () => {
    const proxy = await worker({ vars: VARS, store });

    test("30 requests are 30 calls with 30 responses, and the next 30 are none", async () => {
      const prompt = freshPrompt();
      const first = await inParallel(proxy, prompt);
      assert.equal(upstream.count, N);
      assert.equal(bodiesOf(first).size, N);
      assert.deepEqual(first.map(sampleOf).sort(), slotsOf(N).sort());
      assert.deepEqual(new Set(first.map(xCacheStatusOf)), new Set(["MISS"]));
      const second = await inParallel(proxy, prompt);
      assert.equal(upstream.count, N, "calls for the next 30");
      const known = bodiesOf(first);
      for (const { body } of second) assert.ok(known.has(body.toString()));
    });

    test("30 streams are 30 calls with 30 responses, and both modes share them", async () => {
      const prompt = freshPrompt();
      upstream.otherwise((call) => ({
        headers: EVENT_STREAM,
        body: chatEvent({ role: "assistant", content: `answer ${call.n}` }) + chatEvent({}, "stop") + DONE,
      }));
      const first = await inParallel(proxy, prompt, N, { stream: true });
      assert.equal(upstream.count, N);
      assert.equal(bodiesOf(first).size, N);
      const known = bodiesOf(first);
      for (const { body } of await inParallel(proxy, prompt, N, { stream: true }))
        assert.ok(known.has(body.toString()));
      const plain = await inParallel(proxy, prompt);
      assert.equal(upstream.count, N);
      for (const { body } of plain) {
        const { content } = JSON.parse(body.toString()).choices[0].message;
        assert.match(content, /^answer \d+$/);
      }
    });

    test("more requests than samples join the running ones", async () => {
      const prompt = freshPrompt();
      const replies = await Promise.all(Array.from({ length: 12 }, () => ask(proxy, prompt, 4)));
      assert.equal(upstream.count, 4);
      assert.equal(bodiesOf(replies).size, 4);
    });

    test("each slot is the entry of X-Proxy-Sample", async () => {
      const prompt = freshPrompt();
      const replies = await inParallel(proxy, prompt, 3);
      for (const reply of replies) {
        const sample = Number(sampleOf(reply).split("/")[0]) - 1;
        const headers = sample === 0 ? {} : { "x-proxy-sample": String(sample) };
        const same = await proxy.settled(() => send(proxy.origin, chatRequest(prompt, { headers })));
        assert.equal(same.body.toString(), reply.body.toString());
      }
      assert.equal(upstream.count, 3);
    });

    test("a slot whose call fails is free again", async () => {
      const prompt = freshPrompt();
      upstream.next({ status: 400, json: { error: { message: "no" } } });
      const [failed] = (await inParallel(proxy, prompt, 3)).filter(({ status }) => status === 400);
      await waitFor(async () => {
        const reply = await ask(proxy, prompt, 3);
        return xCacheStatusOf(reply) === "MISS" && sampleOf(reply) === sampleOf(failed);
      }, "the slot to be fetched again");
      assert.equal(upstream.count, 4);
      await untilStored(proxy, prompt, 3);
      assert.equal(upstream.count, 4);
    });

    test("an expired slot is free again", async () => {
      const prompt = freshPrompt();
      await inParallel(proxy, prompt, 2, { headers: { "x-proxy-ttl": "1" } });
      await waitFor(
        async () => (await ask(proxy, prompt, 2)) && upstream.count === 4,
        "both slots to be fetched again",
      );
    });

    test("a refresh renews the slot that it would have been served", async () => {
      const prompt = freshPrompt();
      await inParallel(proxy, prompt, 2);
      await untilStored(proxy, prompt, 2);
      const refreshed = await ask(proxy, prompt, 2, { headers: { "x-proxy-refresh": "true" } });
      assert.equal(xCacheStatusOf(refreshed), "REFRESH");
      assert.equal(upstream.count, 3);
      await waitFor(async () => {
        const reply = await ask(proxy, prompt, 2);
        return sampleOf(reply) === sampleOf(refreshed) && reply.body.equals(refreshed.body);
      }, "the new response to be served");
      assert.equal(upstream.count, 3);
    });

    test("slots whose entries are gone are fetched again", async () => {
      const forgetful = await worker({ vars: { ...VARS, COALESCE_TTL: "0" }, store });
      const prompt = freshPrompt();
      await inParallel(forgetful, prompt, 2);
      await untilStored(forgetful, prompt, 2);
      await forgetful.clear();
      await waitFor(async () => (await ask(forgetful, prompt, 2)) && upstream.count >= 4, "both slots to be fetched");
      await untilStored(forgetful, prompt, 2);
      const known = upstream.count;
      await inParallel(forgetful, prompt, 2);
      assert.equal(upstream.count, known);
    });
  });
}

for (const [coalescer, what] of [
  ["none", "is not bound"],
  ["broken", "fails"],
]) {
  test(`if the object ${what}, any slot is fetched`, async () => {
    const proxy = await worker({ vars: VARS, coalescer });
    const prompt = freshPrompt();
    const replies = await inParallel(proxy, prompt, 4);
    for (const reply of replies) {
      assert.equal(reply.status, 200);
      assert.match(sampleOf(reply), /^[1-4]\/4$/);
    }
    await waitFor(async () => xCacheStatusOf(await ask(proxy, prompt, 4)) === "HIT", "a stored sample");
    assert.ok(upstream.count >= 1 && upstream.count <= 40, `${upstream.count} calls`);
  });
}
