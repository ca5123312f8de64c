// Equal concurrent requests share one call to the upstream, and none gets a worse response because of that.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, beforeEach, describe, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { assertHeaders, assertSameBytes } from "../../testkit/assertions.mjs";
import { cacheStatusOf, detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readRest, readText, send } from "../../testkit/client.mjs";
import {
  chatCompletion,
  chatEvent,
  chatRequest,
  chatStream,
  DONE,
  EVENT_STREAM,
  textOfStream,
} from "../../testkit/fixtures.mjs";
import { DETAIL, LOG, ROLE } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { deferred, waitFor, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "0",
  // This file tests coalescing, whatever the others run with.
  COALESCE: "true",
  COALESCE_TTL: "60",
};
const proxy = await worker({ vars: VARS });
beforeEach(() => upstream.reset());

let prompts = 0; // every test has prompts of its own: a coalesced fetch is remembered for COALESCE_TTL
const freshPrompt = () => `prompt ${(prompts += 1)}`;
/** @type {(content: any, options?: Record<string, any>) => import("../../testkit/client.mjs").SentRequest} */
const request = (content, { stream = false, key = "sk-a", headers = {}, ...fields } = {}) =>
  chatRequest(content, { key, headers, ...(stream && { stream }), ...fields });
const ask = (content, options) => send(proxy.origin, request(content, options));

const words = (n) => Array.from({ length: n }, (_, i) => `word ${i} `);
const events = (n) => words(n).map((content) => chatEvent({ content }));
const END = chatEvent({}, "stop") + DONE;
const restOf = async (reply) => (await readRest(reply)).toString();

describe("a thousand concurrent requests", () => {
  const THOUSAND = 1_000;

  test("a thousand plain requests cause one call and get equal bytes", async () => {
    const prompt = freshPrompt();
    const release = upstream.holdNext({ json: chatCompletion("Hello") });
    const all = Array.from({ length: THOUSAND }, () => ask(prompt));
    await upstream.received(1);
    release();
    const replies = await Promise.all(all);
    assert.equal(upstream.calls.length, 1);
    for (const { status, body } of replies)
      assert.equal(`${status} ${body}`, `200 ${JSON.stringify(chatCompletion("Hello"))}`);
    const kinds = Map.groupBy(replies, xCacheStatusOf);
    assert.equal(kinds.get("MISS").length, 1, "leaders");
    assert.deepEqual(
      [...kinds.keys()].filter((kind) => !["MISS", "COALESCED", "HIT"].includes(kind)),
      [],
    );
    const { fwd, fwdStatus, collapsed } = cacheStatusOf(kinds.get("COALESCED")[0]);
    assert.deepEqual({ fwd, fwdStatus, collapsed }, { fwd: "uri-miss", fwdStatus: 200, collapsed: true });
  });

  test("a thousand streaming requests cause one call and get equal bytes", async () => {
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const all = Array.from({ length: THOUSAND }, () => ask(prompt, { stream: true }));
    await withTimeout(stream.started, "the call to the upstream");
    for (const event of events(20)) await stream.send(event);
    await stream.send(END);
    await stream.end();
    const replies = await Promise.all(all);
    assert.equal(upstream.calls.length, 1);
    for (const { status, body } of replies) assert.equal(`${status} ${body}`, `200 ${chatStream(words(20))}`);
  });

  for (const leads of ["plain", "streaming"]) {
    test(`a thousand mixed requests behind a ${leads} leader cause one call per tenant, each in its own mode`, async () => {
      const prompt = freshPrompt();
      const streams = leads === "streaming";
      const response = streams
        ? { headers: EVENT_STREAM, body: chatStream(words(5)) }
        : { json: chatCompletion(words(5).join("")) };
      const releases = ["sk-a", "sk-b"].map(() => upstream.holdNext(response));
      const leaders = ["sk-a", "sk-b"].map((key) => ask(prompt, { stream: streams, key }));
      await upstream.received(2);
      const all = Array.from({ length: THOUSAND }, (_, i) => {
        const stream = i % 2 === 0;
        return ask(prompt, { stream, key: i % 4 < 2 ? "sk-a" : "sk-b" }).then((reply) => ({ stream, reply }));
      });
      for (const release of releases) release();
      await Promise.all(leaders);
      const modes = new Map();
      for (const { stream, reply } of await Promise.all(all)) {
        assert.equal(reply.status, 200, reply.body.toString());
        const body = reply.body.toString();
        modes.set(stream, (modes.get(stream) ?? new Set()).add(body));
        if (stream) assert.equal(body.endsWith(DONE) && textOfStream(body), words(5).join(""));
        else assert.equal(JSON.parse(body).choices[0].message.content, words(5).join(""));
      }
      assert.deepEqual([modes.get(true).size, modes.get(false).size], [1, 1], "modes");
      assert.equal(upstream.calls.length, 2);
    });
  }
});

describe("a follower", () => {
  test("a follower that joins at 90 % gets the past events at once, and the rest live", async () => {
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const leader = await open(proxy.origin, request(prompt, { stream: true }));
    const first = events(9).join("");
    await stream.send(first);
    assert.equal(await readText(leader, first.length), first);
    const follower = await open(proxy.origin, request(prompt, { stream: true }));
    assert.equal(await readText(follower, first.length), first);
    for (const event of [chatEvent({}, "stop"), DONE]) {
      await stream.send(event);
      assert.equal(await readText(follower, event.length), event);
      assert.equal(await readText(leader, event.length), event);
    }
    await stream.end();
    assert.deepEqual([await leader.next(), await follower.next()], [null, null]);
    assert.equal(xCacheStatusOf(follower), "COALESCED");
    assert.equal(upstream.calls.length, 1);
  });

  test("a follower that reads nothing delays no other", async () => {
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const leader = await open(proxy.origin, request(prompt, { stream: true }));
    const idle = await open(proxy.origin, request(prompt, { stream: true }));
    const big = chatEvent({ content: "x".repeat(1 << 20) });
    for (let i = 0; i < 6; i += 1) {
      await stream.send(big);
      assert.equal(await readText(leader, big.length), big);
    }
    await stream.send(END);
    await stream.end();
    assert.equal(await restOf(leader), END);
    assert.equal(await restOf(idle), big.repeat(6) + END);
  });

  test("if a follower disconnects, the others are unaffected", async () => {
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const leader = await open(proxy.origin, request(prompt, { stream: true }));
    const others = await Promise.all([1, 2, 3].map(() => open(proxy.origin, request(prompt, { stream: true }))));
    await stream.send(events(1)[0]);
    for (const reply of [leader, ...others]) await readText(reply, events(1)[0].length);
    others[0].disconnect();
    others[1].disconnect();
    await stream.send(END);
    await stream.end();
    assert.equal(await restOf(leader), END);
    assert.equal(await restOf(others[2]), END);
  });

  test("the log names leader and follower, with the follower's wait", async () => {
    const prompt = freshPrompt();
    const before = proxy.lines.length;
    const stream = controlledStream();
    upstream.next(stream.respond);
    const leader = await open(proxy.origin, request(prompt, { stream: true }));
    const follower = await open(proxy.origin, request(prompt, { stream: true }));
    await stream.send(END);
    await stream.end();
    await Promise.all([restOf(leader), restOf(follower)]);
    await proxy.logged(before + 2);
    const lines = proxy.lines.slice(before);
    const [led] = lines.filter((line) => line[LOG.coalesceRole] === ROLE.leader);
    const [followed] = lines.filter((line) => line[LOG.coalesceRole] === ROLE.follower);
    assert.deepEqual([led.cache, led.status, led[LOG.waitedMs]], ["MISS", 200, undefined]);
    assert.equal(typeof led[LOG.upstreamMs], "number");
    assert.deepEqual([followed.cache, followed.status, followed[LOG.upstreamMs]], ["COALESCED", 200, null]);
    assert.equal(typeof followed[LOG.waitedMs], "number");
  });
});

describe("the leader disconnects", () => {
  for (const percent of [10, 50, 90]) {
    test(`if the leader disconnects at ${percent} %, its followers and the store get everything`, async () => {
      const prompt = freshPrompt();
      const stream = controlledStream();
      upstream.next(stream.respond);
      const leader = await open(proxy.origin, request(prompt, { stream: true }));
      const followers = await Promise.all([1, 2, 3].map(() => open(proxy.origin, request(prompt, { stream: true }))));
      const before = events(percent / 10).join("");
      await stream.send(before);
      await readText(leader, before.length);
      leader.disconnect();
      await stream.send(chatStream(words(10)).slice(before.length));
      await stream.end();
      for (const follower of followers) assert.equal(await restOf(follower), chatStream(words(10)));
      const repeat = await ask(prompt, { stream: true });
      assert.equal(xCacheStatusOf(repeat), "HIT");
      assert.equal(repeat.body.toString(), chatStream(words(10)));
      assert.equal(upstream.calls.length, 1);
    });
  }

  test("if the leader disconnects before the head, the response is still read and stored", async () => {
    const prompt = freshPrompt();
    const before = proxy.lines.length;
    let respond;
    upstream.next((_call, response) => (respond = () => response.end(JSON.stringify(chatCompletion("Hello")))));
    const other = ask(prompt).catch(() => {});
    const client = new AbortController();
    const aborted = fetch(proxy.origin + request(prompt).path, {
      ...request(prompt),
      method: "POST",
      signal: client.signal,
    });
    await upstream.received(1);
    client.abort();
    await assert.rejects(aborted);
    respond();
    await other;
    await proxy.logged(before + 2);
    assert.equal(xCacheStatusOf(await ask(prompt)), "HIT");
    assert.equal(upstream.calls.length, 1);
  });
});

describe("the leader's call fails", () => {
  const TWENTY = 20;

  // Twenty followers wait for a call that fails. The next calls succeed.
  async function failWith(fault, options = {}) {
    const prompt = freshPrompt();
    const { promise: hold, resolve: failNow } = deferred();
    upstream.next((_call, response) => void hold.then(() => fault(response)));
    upstream.otherwise({ json: chatCompletion("Hello") });
    const leader = send(proxy.origin, { ...request(prompt, options), allowTruncation: true });
    await upstream.received(1);
    const followers = Array.from({ length: TWENTY }, () =>
      send(proxy.origin, { ...request(prompt, options), allowTruncation: true }),
    );
    // Followers may arrive before or after the fault: the guarantee is the same.
    failNow();
    return { leader: await leader, followers: await Promise.all(followers) };
  }
  const succeeded = ({ status, complete, body }) =>
    complete && status === 200 && body.toString() === JSON.stringify(chatCompletion("Hello"));

  test("a call that fails before its head: one follower leads again, and the others join it", async () => {
    const { leader, followers } = await failWith((response) => response.destroy());
    assert.equal(leader.status, 502);
    for (const reply of followers) assert.ok(succeeded(reply), `${reply.status} ${reply.body}`);
    assert.equal(upstream.count, 2);
  });

  test("after a second failure the followers fetch for themselves, four at a time", async () => {
    const prompt = freshPrompt();
    let failures = 0;
    let concurrent = 0;
    let most = 0;
    const { promise: hold, resolve: failNow } = deferred();
    upstream.otherwise((_call, response) => {
      if (failures < 2) {
        failures += 1;
        void hold.then(() => response.destroy());
        return;
      }
      concurrent += 1;
      most = Math.max(most, concurrent);
      setImmediate(() => {
        concurrent -= 1;
        response.writeHead(404, { "content-type": "application/json" }).end('{"error":{}}');
      });
    });
    const replies = Array.from({ length: TWENTY }, () => ask(prompt));
    await upstream.received(1);
    failNow();
    const statuses = (await Promise.all(replies)).map(({ status }) => status).sort();
    assert.deepEqual(statuses.filter((status) => status === 502).length, 2, `${statuses}`);
    assert.deepEqual(statuses.filter((status) => status === 404).length, TWENTY - 2, `${statuses}`);
    assert.ok(most <= 4, `${most} at a time`);
  });

  test("a call that fails in its body: the leader's response is truncated, and no follower gets a part of it", async () => {
    const { leader, followers } = await failWith((response) => {
      response.writeHead(200, { "content-type": "application/json", "content-length": "1000" });
      response.write('{"id":', () => response.destroy());
    });
    assert.ok(!leader.complete, "a truncated response looks complete");
    for (const reply of followers) assert.ok(succeeded(reply), `${reply.status} ${reply.body}`);
  });

  test("a response that may not be stored: the leader gets it, the followers send requests of their own", async () => {
    const filtered = chatCompletion("…");
    filtered.choices[0].finish_reason = "content_filter";
    const { leader, followers } = await failWith((response) => {
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(filtered));
    });
    assert.equal(leader.body.toString(), JSON.stringify(filtered));
    for (const reply of followers) assert.ok(succeeded(reply), `${reply.status} ${reply.body}`);
  });

  test("an error is shared with the waiting followers, marked as coalesced, and never stored", async () => {
    const prompt = freshPrompt();
    const error = { error: { message: "no such model", type: "invalid_request_error", code: "model_not_found" } };
    const release = upstream.holdNext({ status: 404, headers: { "x-request-id": "req_1" }, json: error });
    upstream.otherwise({ json: chatCompletion("Hello") });
    const leader = ask(prompt);
    await upstream.received(1);
    const followers = Array.from({ length: TWENTY }, (_, i) => ask(prompt, { stream: i % 2 === 1 }));
    release();
    assert.equal((await leader).status, 404);
    for (const reply of await Promise.all(followers)) {
      if (succeeded(reply)) continue; // it arrived after the error
      assert.equal(reply.status, reply.body.toString().startsWith("data:") ? 200 : 404);
      if (reply.status !== 404) continue;
      assert.deepEqual(JSON.parse(reply.body.toString()), error);
      assert.equal(xCacheStatusOf(reply), "COALESCED");
      assert.equal(reply.headers["x-request-id"], "req_1");
    }
    assert.ok(succeeded(await ask(prompt)), "the error was stored");
  });

  test("a stream that is truncated: streaming followers see the truncation, waiting followers send requests of their own", async () => {
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    upstream.otherwise({ json: chatCompletion("Hello") });
    const leader = await open(proxy.origin, request(prompt, { stream: true }));
    const live = await Promise.all(
      Array.from({ length: TWENTY }, () => open(proxy.origin, request(prompt, { stream: true }))),
    );
    const waiting = Array.from({ length: TWENTY }, () => ask(prompt));
    await stream.send(events(1)[0]);
    for (const reply of [leader, ...live]) assert.equal(await readText(reply, events(1)[0].length), events(1)[0]);
    stream.abort();
    for (const reply of [leader, ...live]) await assert.rejects(reply.next(), { code: "ECONNRESET" });
    for (const reply of await Promise.all(waiting)) assert.ok(succeeded(reply), `${reply.status} ${reply.body}`);
  });
});

describe("a finished coalesced fetch", () => {
  async function fetchAndForget(prompt, options) {
    // The runtime evicts a Durable Object after seconds without requests: there must be little to delete afterwards.
    await proxy.clear();
    upstream.next({ json: chatCompletion("first") });
    upstream.otherwise({ json: chatCompletion("second") });
    await proxy.settled(() => ask(prompt, options));
    // As in another location, where the entry is not visible yet.
    await proxy.clear();
  }

  test("a finished fetch serves requests that the store cannot serve yet", async () => {
    const prompt = freshPrompt();
    const began = performance.now();
    await fetchAndForget(prompt);
    const reply = await ask(prompt);
    assert.equal(xCacheStatusOf(reply), "HIT");
    assert.equal(detailOf(reply), DETAIL.coalescer);
    assert.equal(cacheStatusOf(reply).hit, true);
    assert.match(reply.headers.age, /^\d+$/);
    assert.ok(Number(reply.headers.age) <= (performance.now() - began) / 1000 + 1, `Age: ${reply.headers.age}`);
    assert.equal(reply.body.toString(), JSON.stringify(chatCompletion("first")));
    const streamed = await ask(prompt, { stream: true });
    assert.equal(textOfStream(streamed.body.toString()), "first");
    assert.equal(upstream.calls.length, 1);
  });

  const refusals = {
    "a refresh": { headers: { "x-proxy-refresh": "true" } },
    "no-cache": { headers: { "cache-control": "no-cache" } },
    "no-store": { headers: { "cache-control": "no-store" } },
    "max-age=0": { headers: { "cache-control": "max-age=0" } },
    "another tenant": { key: "sk-b" },
    "another namespace": { headers: { "x-proxy-namespace": "n" } },
    "another model": { model: "m2" },
  };
  for (const [name, options] of Object.entries(refusals)) {
    test(`a finished fetch does not serve ${name}`, async () => {
      const prompt = freshPrompt();
      await fetchAndForget(prompt);
      const reply = await proxy.settled(() => ask(prompt, options));
      assert.equal(reply.body.toString(), JSON.stringify(chatCompletion("second")));
      assert.equal(upstream.calls.length, 2);
    });
  }

  test("a finished fetch expires with the entry's own lifetime", async () => {
    const prompt = freshPrompt();
    await fetchAndForget(prompt, { headers: { "x-proxy-ttl": "1" } });
    let reply;
    do reply = await ask(prompt);
    while (xCacheStatusOf(reply) === "HIT");
    assert.equal(reply.body.toString(), JSON.stringify(chatCompletion("second")));
  });
});

describe("a refresh", () => {
  test("a refresh starts a new call, and the older call does not overwrite it", async () => {
    const prompt = freshPrompt();
    const before = proxy.lines.length;
    const first = upstream.holdNext({ json: chatCompletion("old") });
    const second = upstream.holdNext({ json: chatCompletion("new") });
    const old = ask(prompt);
    await upstream.received(1);
    const refreshed = ask(prompt, { headers: { "x-proxy-refresh": "true" } });
    await upstream.received(2);
    second();
    assert.equal((await refreshed).body.toString(), JSON.stringify(chatCompletion("new")));
    first();
    assert.equal((await old).body.toString(), JSON.stringify(chatCompletion("old")));
    await proxy.logged(before + 2);
    assert.equal((await ask(prompt)).body.toString(), JSON.stringify(chatCompletion("new")));
    assert.equal(upstream.calls.length, 2);
  });
});

describe("without coalescing", () => {
  test("with COALESCE=false each request is forwarded", async () => {
    const uncoalesced = await worker({ vars: { ...VARS, COALESCE: "false" } });
    const prompt = freshPrompt();
    const releases = [1, 2, 3].map(() => upstream.holdNext({ json: chatCompletion("Hello") }));
    const all = [1, 2, 3].map(() => send(uncoalesced.origin, request(prompt)));
    await upstream.received(3);
    for (const release of releases) release();
    for (const reply of await Promise.all(all)) assert.equal(xCacheStatusOf(reply), "MISS");
  });

  for (const [name, coalescer] of [
    ["no binding", "none"],
    ["a binding that fails", "broken"],
  ]) {
    test(`with ${name} each request is forwarded`, async () => {
      const uncoalesced = await worker({ vars: VARS, coalescer });
      const prompt = freshPrompt();
      const releases = [1, 2].map(() => upstream.holdNext({ json: chatCompletion("Hello") }));
      const all = [1, 2].map(() => send(uncoalesced.origin, request(prompt)));
      await upstream.received(2);
      for (const release of releases) release();
      for (const reply of await Promise.all(all)) {
        assert.equal(xCacheStatusOf(reply), "MISS");
        assert.equal(reply.body.toString(), JSON.stringify(chatCompletion("Hello")));
      }
    });
  }
});

describe("responses that concern the leader alone", () => {
  const shared = worker({ vars: { ...VARS, CACHE_SCOPE: "shared", ALLOW_ANONYMOUS: "true" } });
  const refusal = { error: { message: "no", type: "invalid_request_error", code: null } };
  const success = { json: chatCompletion("Hello") };

  // Two concurrent requests: the first is refused.
  async function assertNotShared(instance, first, second) {
    const release = upstream.holdNext({ status: 400, json: refusal });
    upstream.otherwise(success);
    const leader = send(instance.origin, first);
    await upstream.received(1);
    const follower = send(instance.origin, second);
    release();
    assert.equal((await leader).status, 400);
    const reply = await follower;
    assert.equal(reply.body.toString(), JSON.stringify(success.json), `${reply.status}`);
  }

  test("an error about the mode is not shared with the other mode", async () => {
    const prompt = freshPrompt();
    await assertNotShared(proxy, request(prompt, { stream: true }), request(prompt));
  });

  test("an error about the model is not shared with another model in the same conversation", async () => {
    const prompt = freshPrompt();
    const headers = { "x-proxy-match": "chat" };
    await assertNotShared(proxy, request(prompt, { headers, model: "nope" }), request(prompt, { headers }));
  });

  test("an error about the leader's own header fields is not shared", async () => {
    const own = [
      ["user-agent", "blocked"],
      ["idempotency-key", "used"],
      ["x-http-method-override", "PATCH"],
      ["x-request-id", "r"],
      ["traceparent", "00-0"],
      ["priority", "u=7"],
    ];
    for (const [name, value] of own) {
      const prompt = freshPrompt();
      await assertNotShared(proxy, request(prompt, { headers: { [name]: value } }), request(prompt));
      upstream.reset();
    }
  });

  test("conditional and range fields reach the upstream only with requests that bypass the cache", async () => {
    const conditional = {
      "if-none-match": '"a"',
      "if-match": '"a"',
      "if-modified-since": "Tue, 24 Nov 2026 00:00:00 GMT",
      "if-unmodified-since": "Tue, 24 Nov 2026 00:00:00 GMT",
      "if-range": '"a"',
      range: "bytes=0-1",
    };
    upstream.otherwise(success);
    await ask(freshPrompt(), { headers: conditional });
    for (const name of Object.keys(conditional)) assert.equal(upstream.last.headers[name], undefined, name);
    await send(proxy.origin, { method: "GET", path: "/proxy/files/1/content", headers: conditional });
    assert.equal(upstream.last.headers.range, "bytes=0-1");
  });

  test("a response that will not be stored is not shared with a streaming follower", async () => {
    for (const status of [202, 206]) {
      const prompt = freshPrompt();
      const release = upstream.holdNext({ status, headers: EVENT_STREAM, body: "data: {}\n\n" });
      upstream.otherwise({ headers: EVENT_STREAM, body: chatStream(["Hello"]) });
      const leader = ask(prompt, { stream: true });
      await upstream.received(1);
      const follower = ask(prompt, { stream: true });
      release();
      assert.equal((await leader).status, status);
      const reply = await follower;
      assert.equal(reply.status, 200);
      assert.equal(textOfStream(reply.body.toString()), "Hello");
      upstream.reset();
    }
  });

  test("an error about an ignored field is not shared with another value of the field", async () => {
    const prompt = freshPrompt();
    const headers = { "x-proxy-ignore": "user" };
    await assertNotShared(
      proxy,
      request(prompt, { headers, user: "nope" }),
      request(prompt, { headers, user: "good" }),
    );
  });

  test("an error about a credential is not shared with another credential in the shared scope", async () => {
    const prompt = freshPrompt();
    await assertNotShared(await shared, request(prompt, { key: "sk-bad" }), request(prompt));
  });

  test("limits and organization of the leader reach no follower, and cookies reach nobody", async () => {
    const prompt = freshPrompt();
    const personal = { "x-ratelimit-remaining-requests": "7", "openai-organization": "org-leader" };
    const headers = { ...EVENT_STREAM, "x-request-id": "req_1", "set-cookie": "a=b", ...personal };
    const stream = controlledStream({ headers });
    upstream.next(stream.respond);
    const { origin } = await shared;
    const leader = await open(origin, request(prompt, { stream: true }));
    const follower = await open(origin, request(prompt, { stream: true, key: "sk-b" }));
    assertHeaders(leader.headers, { ...personal, "set-cookie": null }, "the leader");
    assertHeaders(
      follower.headers,
      {
        "x-request-id": "req_1",
        "set-cookie": null,
        "x-ratelimit-remaining-requests": null,
        "openai-organization": null,
      },
      "the follower",
    );
    await stream.send(chatStream(words(1)));
    await stream.end();
    assert.deepEqual([await restOf(leader), await restOf(follower)], [chatStream(words(1)), chatStream(words(1))]);
  });
});

describe("a follower that has waited in vain", () => {
  const filtered = chatEvent({}, "content_filter") + DONE;

  test("a follower's own call has all of TIMEOUT", async () => {
    const limited = await worker({ vars: { ...VARS, TIMEOUT: "2" } });
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    upstream.otherwise({ json: chatCompletion("Hello") });
    const leader = await open(limited.origin, request(prompt, { stream: true }));
    const follower = send(limited.origin, request(prompt));
    // Another request is the clock: when it has timed out, the follower has waited for longer.
    upstream.next({ hold: new Promise(() => {}) });
    assert.equal((await send(limited.origin, request(freshPrompt()))).status, 504);
    await stream.send(filtered);
    await stream.end();
    assert.equal(await restOf(leader), filtered);
    assert.equal((await follower).body.toString(), JSON.stringify(chatCompletion("Hello")));
  });

  test("a follower is released when the response exceeds CACHE_MAX_BYTES, even if its leader reads nothing", async () => {
    const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
    const prompt = freshPrompt();
    const stream = controlledStream();
    upstream.next(stream.respond);
    upstream.otherwise({ json: chatCompletion("Hello") });
    const leader = await open(small.origin, request(prompt, { stream: true }));
    const follower = send(small.origin, request(prompt));
    const long = chatEvent({ content: "x".repeat(5_000) });
    await stream.send(long);
    assert.equal((await follower).body.toString(), JSON.stringify(chatCompletion("Hello")));
    await stream.send(DONE);
    await stream.end();
    assert.equal(await restOf(leader), long + DONE);
  });
});

test("a response beyond CACHE_MAX_BYTES is aborted when its only client disconnects", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
  const stream = controlledStream();
  upstream.next(stream.respond);
  const before = small.lines.length;
  const leader = await open(small.origin, request(freshPrompt(), { stream: true }));
  leader.disconnect();
  await stream.send(chatEvent({ content: "x".repeat(5_000) }));
  await withTimeout(upstream.last.disconnected, "the upstream to be disconnected");
  assert.equal((await small.logged(before + 1)).reason, "too-large");
});

test("a compressed response beyond CACHE_MAX_BYTES may take longer than IDLE_TIMEOUT in total", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "300", IDLE_TIMEOUT: "2" } });
  const stream = controlledStream({ headers: { ...EVENT_STREAM, "content-encoding": "gzip" } });
  upstream.next(stream.respond);
  const leader = await open(small.origin, request(freshPrompt(), { stream: true }));
  const bytes = gzipSync(Buffer.from(chatEvent({ content: randomBytes(100_000).toString("hex") })));
  // Responses that are aborted after IDLE_TIMEOUT are the clock. This one gets some bytes much more often, until two of them, one
  // after the other, have been aborted.
  let sent = 0;
  const sendSome = async () => {
    await stream.send(bytes.subarray(sent, sent + 400));
    sent += 400;
  };
  for (let clock = 0; clock < 2; clock += 1) {
    const stalled = controlledStream();
    upstream.next(stalled.respond);
    const timed = send(small.origin, { ...request(freshPrompt(), { stream: true }), allowTruncation: true });
    await withTimeout(stalled.started, "another call");
    await stalled.send(chatEvent({ content: "a" }));
    let aborted = false;
    timed.then(({ complete }) => (aborted = !complete));
    await waitFor(() => sendSome().then(() => aborted), "a stalled response to be aborted", { pollMs: 100 });
  }
  await stream.send(bytes.subarray(sent));
  await stream.end();
  assert.equal(gunzipSync(await readRest(leader)).toString(), gunzipSync(bytes).toString());
});

test("a compressed error reaches its leader complete, even if a follower disconnects", async () => {
  const prompt = freshPrompt();
  const body = gzipSync(JSON.stringify({ error: { message: "x".repeat(20_000), code: "nope" } }));
  const headers = { "content-type": "application/json", "content-encoding": "gzip" };
  const stream = controlledStream({ status: 404, headers });
  upstream.next(stream.respond);
  const leading = open(proxy.origin, request(prompt));
  const following = open(proxy.origin, request(prompt));
  const first = await Promise.race([leading, following]);
  await stream.send(body.subarray(0, 50));
  await stream.send(body.subarray(50));
  await stream.end();
  const other = await (first === (await leading) ? following : leading);
  if (other.status === 404) other.disconnect();
  assert.equal(JSON.parse(gunzipSync(await readRest(first)).toString()).error.code, "nope");
});

test("a failed refresh does not discard the response of the call that it overtook", async () => {
  const prompt = freshPrompt();
  const before = proxy.lines.length;
  const release = upstream.holdNext({ json: chatCompletion("good") });
  const first = ask(prompt);
  await upstream.received(1);
  upstream.next({ status: 500, json: {} });
  assert.equal((await ask(prompt, { headers: { "x-proxy-refresh": "true" } })).status, 500);
  release();
  assert.equal((await first).status, 200);
  await proxy.logged(before + 2);
  const reply = await ask(prompt);
  assert.equal(xCacheStatusOf(reply), "HIT");
  assert.equal(reply.body.toString(), JSON.stringify(chatCompletion("good")));
});

test("an unfinished error response is not shared with later requests", async () => {
  const prompt = freshPrompt();
  const trickle = controlledStream({ status: 503, headers: { "content-type": "application/json" } });
  upstream.next(trickle.respond);
  upstream.otherwise({ json: chatCompletion("Hello") });
  const leader = await open(proxy.origin, request(prompt));
  assert.equal(leader.status, 503);
  const late = await ask(prompt);
  assert.equal(late.body.toString(), JSON.stringify(chatCompletion("Hello")));
  await trickle.send("{}");
  await trickle.end();
  assert.equal(await restOf(leader), "{}");
});

test("a response beyond CACHE_MAX_BYTES reaches its leader complete, and a later request is forwarded", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
  const prompt = freshPrompt();
  const stream = controlledStream();
  upstream.next(stream.respond);
  upstream.otherwise({ headers: EVENT_STREAM, body: chatStream(words(1)) });
  const leader = await open(small.origin, request(prompt, { stream: true }));
  const long = events(40).join("");
  await stream.send(long);
  assert.equal(await readText(leader, long.length), long);
  const late = await send(small.origin, request(prompt, { stream: true }));
  assert.equal(late.body.toString(), chatStream(words(1)));
  await stream.send(DONE);
  await stream.end();
  assert.equal(await restOf(leader), DONE);
});

// A follower that keeps up is never disconnected, however little of a stream is buffered and however its leader reads.
const LONG_STREAMS = {
  "long events, one after the other": Array(6).fill(chatEvent({ content: "x".repeat(50_000) })),
  "a burst of events": [chatEvent({ content: "x".repeat(1_000) }).repeat(1_500)],
};
for (const [what, chunks] of Object.entries(LONG_STREAMS)) {
  for (const leader of ["reads", "stalls", "disconnects"]) {
    test(`a follower that keeps up gets ${what} while its leader ${leader}`, async () => {
      const small = await worker({ vars: { ...VARS, COALESCE_TTL: "0", CACHE_MAX_BYTES: "20000" } });
      const prompt = freshPrompt();
      const stream = controlledStream();
      upstream.next(stream.respond);
      const leading = await open(small.origin, request(prompt, { stream: true }));
      const follower = await open(small.origin, request(prompt, { stream: true }));
      assert.equal(xCacheStatusOf(follower), "COALESCED");
      if (leader === "disconnects") leading.disconnect();
      for (const chunk of [...chunks, DONE]) {
        const reading = [follower, ...(leader === "reads" ? [leading] : [])].map((reply) =>
          readText(reply, chunk.length),
        );
        await stream.send(chunk);
        for (const got of await withTimeout(Promise.all(reading), "the chunk")) {
          assertSameBytes(Buffer.from(got), Buffer.from(chunk), "what was received");
        }
      }
      await stream.end();
      assert.equal(await follower.next(), null);
      leading.disconnect();
    });
  }
}
