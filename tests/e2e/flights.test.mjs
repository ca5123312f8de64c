// One question in flight, one call upstream: whoever asks meanwhile shares the answer, and nobody is worse off for it.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, beforeEach, describe, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { open, read, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "0",
  // This file is about sharing, whatever the others are run with.
  COALESCE: "true",
  COALESCE_TTL: "60",
};
const proxy = await worker({ vars: VARS });
beforeEach(() => upstream.reset());

let questions = 0; // every test has a question of its own: flights remember
const fresh = () => `question ${(questions += 1)}`;
const request = (content, { stream = false, key = "sk-a", headers = {}, ...more } = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
  body: JSON.stringify({ model: "m", messages: [{ role: "user", content }], ...(stream && { stream }), ...more }),
});
const ask = (content, options) => send(proxy.origin, request(content, options));

const completion = (text) => ({
  id: "c",
  object: "chat.completion",
  created: 1,
  model: "m",
  choices: [{ index: 0, message: { role: "assistant", content: text }, finish_reason: "stop" }],
});
const chunk = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
const DONE = "data: [DONE]\n\n";
const words = (n) => Array.from({ length: n }, (_, i) => chunk({ content: `word ${i} ` }));
const whole = (n) => [...words(n), chunk({}, "stop"), DONE].join("");
const text = (n) => Array.from({ length: n }, (_, i) => `word ${i} `).join("");
const spoken = (stream) =>
  [...stream.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json).choices[0]?.delta.content ?? "").join("");

// An answer that waits until it is let go.
function held(answer) {
  let release;
  const hold = new Promise((resolve) => (release = resolve));
  upstream.next({ ...answer, hold });
  return release;
}

async function rest(reply) {
  let got = "";
  for (let piece; (piece = await reply.next()) !== null; ) got += piece;
  return got;
}

describe("a thousand at once", () => {
  const THOUSAND = 1_000;

  test("plain: one call, equal bytes", async () => {
    const question = fresh();
    const release = held({ json: completion("Hello") });
    const all = Array.from({ length: THOUSAND }, () => ask(question));
    await upstream.asked(1);
    release();
    const replies = await Promise.all(all);
    assert.equal(upstream.calls.length, 1);
    for (const { status, body } of replies) assert.equal(`${status} ${body}`, `200 ${JSON.stringify(completion("Hello"))}`);
    const kinds = Map.groupBy(replies, expect.cacheStatus);
    assert.equal(kinds.get("MISS").length, 1, "leaders");
    assert.deepEqual([...kinds.keys()].filter((kind) => !["MISS", "COALESCED", "HIT"].includes(kind)), []);
    assert.match(kinds.get("COALESCED")[0].headers["cache-status"], /^reprise; fwd=uri-miss; fwd-status=200; collapsed;/);
  });

  test("streaming: one call, equal bytes", async () => {
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    const all = Array.from({ length: THOUSAND }, () => ask(question, { stream: true }));
    await within(stream.begun, "the call");
    for (const piece of words(20)) await stream.send(piece);
    await stream.send(chunk({}, "stop") + DONE);
    await stream.end();
    const replies = await Promise.all(all);
    assert.equal(upstream.calls.length, 1);
    for (const { status, body } of replies) assert.equal(`${status} ${body}`, `200 ${whole(20)}`);
  });

  for (const leads of ["plain", "streaming"]) {
    test(`mixed, led by a ${leads} one: one call for each party, each in its own form`, async () => {
      const question = fresh();
      const streams = leads === "streaming";
      const said = streams
        ? { headers: { "content-type": "text/event-stream" }, body: whole(5) }
        : { json: completion(text(5)) };
      const releases = ["sk-a", "sk-b"].map(() => held(said));
      const leaders = ["sk-a", "sk-b"].map((key) => ask(question, { stream: streams, key }));
      await upstream.asked(2);
      const all = Array.from({ length: THOUSAND }, (_, i) => {
        const stream = i % 2 === 0;
        return ask(question, { stream, key: i % 4 < 2 ? "sk-a" : "sk-b" }).then((reply) => ({ stream, reply }));
      });
      for (const release of releases) release();
      await Promise.all(leaders);
      const forms = new Map();
      for (const { stream, reply } of await Promise.all(all)) {
        assert.equal(reply.status, 200, reply.body.toString());
        const body = reply.body.toString();
        forms.set(stream, (forms.get(stream) ?? new Set()).add(body));
        if (stream) assert.equal(body.endsWith(DONE) && spoken(body), text(5));
        else assert.equal(JSON.parse(body).choices[0].message.content, text(5));
      }
      assert.deepEqual([forms.get(true).size, forms.get(false).size], [1, 1], "forms");
      assert.equal(upstream.calls.length, 2);
    });
  }
});

describe("a follower", () => {
  test("that comes at 90 % gets what has been said at once, and the rest live", async () => {
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    const leader = await open(proxy.origin, request(question, { stream: true }));
    const first = words(9).join("");
    await stream.send(first);
    assert.equal(await read(leader, first.length), first);
    const follower = await open(proxy.origin, request(question, { stream: true }));
    assert.equal(await read(follower, first.length), first);
    for (const piece of [chunk({}, "stop"), DONE]) {
      await stream.send(piece);
      assert.equal(await read(follower, piece.length), piece);
      assert.equal(await read(leader, piece.length), piece);
    }
    await stream.end();
    assert.deepEqual([await leader.next(), await follower.next()], [null, null]);
    assert.equal(expect.cacheStatus(follower), "COALESCED");
    assert.equal(upstream.calls.length, 1);
  });

  test("that reads nothing holds nobody up", async () => {
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    const leader = await open(proxy.origin, request(question, { stream: true }));
    const idle = await open(proxy.origin, request(question, { stream: true }));
    const big = chunk({ content: "x".repeat(1 << 20) });
    for (let i = 0; i < 6; i += 1) {
      await stream.send(big);
      assert.equal(await read(leader, big.length), big);
    }
    await stream.send(chunk({}, "stop") + DONE);
    await stream.end();
    assert.equal(await rest(leader), chunk({}, "stop") + DONE);
    assert.equal(await rest(idle), big.repeat(6) + chunk({}, "stop") + DONE);
  });

  test("that leaves takes nobody along", async () => {
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    const leader = await open(proxy.origin, request(question, { stream: true }));
    const others = await Promise.all([1, 2, 3].map(() => open(proxy.origin, request(question, { stream: true }))));
    await stream.send(words(1)[0]);
    for (const reply of [leader, ...others]) await read(reply, words(1)[0].length);
    others[0].leave();
    others[1].leave();
    await stream.send(chunk({}, "stop") + DONE);
    await stream.end();
    assert.equal(await rest(leader), chunk({}, "stop") + DONE);
    assert.equal(await rest(others[2]), chunk({}, "stop") + DONE);
  });

  test("is named in the log, with its wait", async () => {
    const question = fresh();
    const before = proxy.lines.length;
    const stream = commandedStream();
    upstream.next(stream.answer);
    const leader = await open(proxy.origin, request(question, { stream: true }));
    const follower = await open(proxy.origin, request(question, { stream: true }));
    await stream.send(chunk({}, "stop") + DONE);
    await stream.end();
    await Promise.all([rest(leader), rest(follower)]);
    await proxy.logged(before + 2);
    const lines = proxy.lines.slice(before);
    const [led] = lines.filter((line) => line.flight === "leader");
    const [followed] = lines.filter((line) => line.flight === "follower");
    assert.deepEqual([led.cache, led.status, led.waited_ms], ["MISS", 200, undefined]);
    assert.equal(typeof led.upstream_ms, "number");
    assert.deepEqual([followed.cache, followed.status, followed.upstream_ms], ["COALESCED", 200, null]);
    assert.equal(typeof followed.waited_ms, "number");
  });
});

describe("the leader leaves", () => {
  for (const percent of [10, 50, 90]) {
    test(`at ${percent} %: its followers get everything, and so does the store`, async () => {
      const question = fresh();
      const stream = commandedStream();
      upstream.next(stream.answer);
      const leader = await open(proxy.origin, request(question, { stream: true }));
      const followers = await Promise.all([1, 2, 3].map(() => open(proxy.origin, request(question, { stream: true }))));
      const before = words(percent / 10).join("");
      await stream.send(before);
      await read(leader, before.length);
      leader.leave();
      await stream.send(whole(10).slice(before.length));
      await stream.end();
      for (const follower of followers) assert.equal(await rest(follower), whole(10));
      const repeat = await ask(question, { stream: true });
      assert.equal(expect.cacheStatus(repeat), "HIT");
      assert.equal(repeat.body.toString(), whole(10));
      assert.equal(upstream.calls.length, 1);
    });
  }

  test("alone and before the head: the call is finished and stored", async () => {
    const question = fresh();
    const before = proxy.lines.length;
    let answer;
    upstream.next((call, response) => (answer = () => response.end(JSON.stringify(completion("Hello")))));
    const gone = ask(question).catch(() => {});
    const client = new AbortController();
    const leaving = fetch(proxy.origin + request(question).path, { ...request(question), method: "POST", signal: client.signal });
    await upstream.asked(1);
    client.abort();
    await assert.rejects(leaving);
    answer();
    await gone;
    await proxy.logged(before + 2);
    assert.equal(expect.cacheStatus(await ask(question)), "HIT");
    assert.equal(upstream.calls.length, 1);
  });
});

describe("the leader's call fails", () => {
  const TWENTY = 20;

  // What becomes of twenty followers when the call that they wait for fails, and the next ones do not.
  async function fail(fault, options = {}) {
    const question = fresh();
    let failNow;
    const hold = new Promise((resolve) => (failNow = resolve));
    upstream.next((call, response) => void hold.then(() => fault(response)));
    upstream.otherwise({ json: completion("Hello") });
    const leader = send(proxy.origin, { ...request(question, options), mayBreak: true });
    await upstream.asked(1);
    const followers = Array.from({ length: TWENTY }, () => send(proxy.origin, { ...request(question, options), mayBreak: true }));
    // The followers are on their way; whether they come before or after the fault, the promise is the same.
    failNow();
    return { leader: await leader, followers: await Promise.all(followers), question };
  }
  const right = ({ status, whole, body }) => whole && status === 200 && body.toString() === JSON.stringify(completion("Hello"));

  test("before its head: each goes on by itself", async () => {
    const { leader, followers } = await fail((response) => response.destroy());
    assert.equal(leader.status, 502);
    for (const reply of followers) assert.ok(right(reply), `${reply.status} ${reply.body}`);
  });

  test("in its body: the leader's breaks off, nobody else gets a part of it", async () => {
    const { leader, followers } = await fail((response) => {
      response.writeHead(200, { "content-type": "application/json", "content-length": "1000" });
      response.write('{"id":', () => response.destroy());
    });
    assert.ok(!leader.whole, "half an answer passed for a whole one");
    for (const reply of followers) assert.ok(right(reply), `${reply.status} ${reply.body}`);
  });

  test("with an answer that is not to be kept: the leader gets it, the others ask", async () => {
    const filtered = completion("…");
    filtered.choices[0].finish_reason = "content_filter";
    const { leader, followers } = await fail((response) => {
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(filtered));
    });
    assert.equal(leader.body.toString(), JSON.stringify(filtered));
    for (const reply of followers) assert.ok(right(reply), `${reply.status} ${reply.body}`);
  });

  test("with an error: it is shared with those who wait, marked, and never stored", async () => {
    const question = fresh();
    const error = { error: { message: "no such model", type: "invalid_request_error", code: "model_not_found" } };
    const release = held({ status: 404, headers: { "x-request-id": "req_1" }, json: error });
    upstream.otherwise({ json: completion("Hello") });
    const leader = ask(question);
    await upstream.asked(1);
    const followers = Array.from({ length: TWENTY }, (_, i) => ask(question, { stream: i % 2 === 1 }));
    release();
    assert.equal((await leader).status, 404);
    for (const reply of await Promise.all(followers)) {
      if (right(reply)) continue; // it came after the error
      assert.equal(reply.status, reply.body.toString().startsWith("data:") ? 200 : 404);
      if (reply.status !== 404) continue;
      assert.deepEqual(JSON.parse(reply.body), error);
      assert.equal(expect.cacheStatus(reply), "COALESCED");
      assert.equal(reply.headers["x-request-id"], "req_1");
    }
    assert.ok(right(await ask(question)), "the error was kept");
  });

  test("in the middle of a stream: those who have begun to read see it break, those who wait ask by themselves", async () => {
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    upstream.otherwise({ json: completion("Hello") });
    const leader = await open(proxy.origin, request(question, { stream: true }));
    const live = await Promise.all(Array.from({ length: TWENTY }, () => open(proxy.origin, request(question, { stream: true }))));
    const waiting = Array.from({ length: TWENTY }, () => ask(question));
    await stream.send(words(1)[0]);
    for (const reply of [leader, ...live]) assert.equal(await read(reply, words(1)[0].length), words(1)[0]);
    stream.cut();
    for (const reply of [leader, ...live]) await assert.rejects(reply.next(), { code: "ECONNRESET" });
    for (const reply of await Promise.all(waiting)) assert.ok(right(reply), `${reply.status} ${reply.body}`);
  });
});

describe("what a flight remembers", () => {
  async function answered(question, options) {
    upstream.next({ json: completion("first") });
    upstream.otherwise({ json: completion("second") });
    await proxy.settled(() => ask(question, options));
    // Another place, which does not see the entry yet.
    await proxy.clear();
  }

  test("answers where the store does not show it yet", async () => {
    const question = fresh();
    await answered(question);
    const reply = await ask(question);
    assert.equal(expect.cacheStatus(reply), "HIT");
    assert.equal(expect.detail(reply), "flight");
    assert.match(reply.headers["cache-status"], /^reprise; hit;/);
    assert.equal(reply.headers.age, "0");
    assert.equal(reply.body.toString(), JSON.stringify(completion("first")));
    const streamed = await ask(question, { stream: true });
    assert.equal(spoken(streamed.body.toString()), "first");
    assert.equal(upstream.calls.length, 1);
  });

  const refusals = {
    "a refresh": { headers: { "x-proxy-refresh": "true" } },
    "no-cache": { headers: { "cache-control": "no-cache" } },
    "no-store": { headers: { "cache-control": "no-store" } },
    "max-age=0": { headers: { "cache-control": "max-age=0" } },
    "another party": { key: "sk-b" },
    "another namespace": { headers: { "x-proxy-namespace": "n" } },
    "another model": { model: "m2" },
  };
  for (const [name, options] of Object.entries(refusals)) {
    test(`is not for ${name}`, async () => {
      const question = fresh();
      await answered(question);
      const reply = await proxy.settled(() => ask(question, options));
      assert.equal(reply.body.toString(), JSON.stringify(completion("second")));
      assert.equal(upstream.calls.length, 2);
    });
  }

  test("is over with the entry's own lifetime", async () => {
    const question = fresh();
    await answered(question, { headers: { "x-proxy-ttl": "1" } });
    let reply;
    do reply = await ask(question);
    while (expect.cacheStatus(reply) === "HIT");
    assert.equal(reply.body.toString(), JSON.stringify(completion("second")));
  });
});

describe("a refresh", () => {
  test("starts a new call, which later askers join, and the older one does not overwrite it", async () => {
    const question = fresh();
    const before = proxy.lines.length;
    const first = held({ json: completion("old") });
    const second = held({ json: completion("new") });
    const old = ask(question);
    await upstream.asked(1);
    const refreshed = ask(question, { headers: { "x-proxy-refresh": "true" } });
    await upstream.asked(2);
    second();
    assert.equal((await refreshed).body.toString(), JSON.stringify(completion("new")));
    first();
    assert.equal((await old).body.toString(), JSON.stringify(completion("old")));
    await proxy.logged(before + 2);
    assert.equal((await ask(question)).body.toString(), JSON.stringify(completion("new")));
    assert.equal(upstream.calls.length, 2);
  });
});

describe("without flights", () => {
  test("COALESCE=false: everyone asks", async () => {
    const alone = await worker({ vars: { ...VARS, COALESCE: "false" } });
    const question = fresh();
    const releases = [1, 2, 3].map(() => held({ json: completion("Hello") }));
    const all = [1, 2, 3].map(() => send(alone.origin, request(question)));
    await upstream.asked(3);
    for (const release of releases) release();
    for (const reply of await Promise.all(all)) assert.equal(expect.cacheStatus(reply), "MISS");
  });

  for (const [name, flights] of [["no binding", "none"], ["a binding that fails", "broken"]]) {
    test(`${name}: everyone asks`, async () => {
      const alone = await worker({ vars: VARS, flights });
      const question = fresh();
      const releases = [1, 2].map(() => held({ json: completion("Hello") }));
      const all = [1, 2].map(() => send(alone.origin, request(question)));
      await upstream.asked(2);
      for (const release of releases) release();
      for (const reply of await Promise.all(all)) {
        assert.equal(expect.cacheStatus(reply), "MISS");
        assert.equal(reply.body.toString(), JSON.stringify(completion("Hello")));
      }
    });
  }
});

describe("what is the leader's own", () => {
  const shared = worker({ vars: { ...VARS, CACHE_SCOPE: "shared", ALLOW_ANONYMOUS: "true" } });
  const refusal = { error: { message: "no", type: "invalid_request_error", code: null } };
  const good = { json: completion("Hello") };

  // Two ask at once, and the first is refused.
  async function refused(instance, first, second) {
    const release = held({ status: 400, json: refusal });
    upstream.otherwise(good);
    const leader = send(instance.origin, first);
    await upstream.asked(1);
    const follower = send(instance.origin, second);
    release();
    assert.equal((await leader).status, 400);
    const reply = await follower;
    assert.equal(reply.body.toString(), JSON.stringify(good.json), `${reply.status}`);
  }

  test("an error about the mode is not for who asks in the other", async () => {
    const question = fresh();
    await refused(proxy, request(question, { stream: true }), request(question));
  });

  test("an error about the model is not for who asks another, though the conversation is the same", async () => {
    const question = fresh();
    const headers = { "x-proxy-match": "chat" };
    await refused(proxy, request(question, { headers, model: "nope" }), request(question, { headers }));
  });

  test("an error about a field is not for who sends another, though both leave it out of the key", async () => {
    const question = fresh();
    const headers = { "x-proxy-ignore": "user" };
    await refused(proxy, request(question, { headers, user: "nope" }), request(question, { headers, user: "good" }));
  });

  test("an error about a key is not for who has another, though all share answers", async () => {
    const question = fresh();
    await refused(await shared, request(question, { key: "sk-bad" }), request(question));
  });

  test("cookies, limits and organization reach nobody else", async () => {
    const question = fresh();
    const personal = { "set-cookie": "a=b", "x-ratelimit-remaining-requests": "7", "openai-organization": "org-leader" };
    const stream = commandedStream({ headers: { "content-type": "text/event-stream", "x-request-id": "req_1", ...personal } });
    upstream.next(stream.answer);
    const { origin } = await shared;
    const leader = await open(origin, request(question, { stream: true }));
    const follower = await open(origin, request(question, { stream: true, key: "sk-b" }));
    expect.headers(leader.headers, personal, "the leader");
    expect.headers(follower.headers, { "x-request-id": "req_1", "set-cookie": null, "x-ratelimit-remaining-requests": null, "openai-organization": null }, "the follower");
    await stream.send(whole(1));
    await stream.end();
    assert.deepEqual([await rest(leader), await rest(follower)], [whole(1), whole(1)]);
  });
});

describe("who has waited in vain", () => {
  const filtered = chunk({}, "content_filter") + DONE;

  test("has all of TIMEOUT to ask by itself", async () => {
    const hasty = await worker({ vars: { ...VARS, TIMEOUT: "1" } });
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    upstream.otherwise({ json: completion("Hello") });
    const leader = await open(hasty.origin, request(question, { stream: true }));
    const follower = send(hasty.origin, request(question));
    // Another question is the clock: when it has timed out, the follower has waited for longer.
    upstream.next({ hold: new Promise(() => {}) });
    assert.equal((await send(hasty.origin, request(fresh()))).status, 504);
    await stream.send(filtered);
    await stream.end();
    assert.equal(await rest(leader), filtered);
    assert.equal((await follower).body.toString(), JSON.stringify(completion("Hello")));
  });

  test("is let go when the answer outgrows what is kept, though its leader reads nothing", async () => {
    const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
    const question = fresh();
    const stream = commandedStream();
    upstream.next(stream.answer);
    upstream.otherwise({ json: completion("Hello") });
    const leader = await open(small.origin, request(question, { stream: true }));
    const follower = send(small.origin, request(question));
    const long = chunk({ content: "x".repeat(5_000) });
    await stream.send(long);
    assert.equal((await follower).body.toString(), JSON.stringify(completion("Hello")));
    await stream.send(DONE);
    await stream.end();
    assert.equal(await rest(leader), long + DONE);
  });
});

test("an answer that outgrows what is kept is left when its only reader has left", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
  const stream = commandedStream();
  upstream.next(stream.answer);
  const before = small.lines.length;
  const leader = await open(small.origin, request(fresh(), { stream: true }));
  leader.leave();
  await stream.send(chunk({ content: "x".repeat(5_000) }));
  await within(upstream.last.left, "the upstream to be left");
  assert.equal((await small.logged(before + 1)).reason, "too-large");
});

test("a coded answer that outgrows what is kept goes on for as long as it likes", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "300", IDLE_TIMEOUT: "2" } });
  const stream = commandedStream({ headers: { "content-type": "text/event-stream", "content-encoding": "gzip" } });
  upstream.next(stream.answer);
  const leader = await open(small.origin, request(fresh(), { stream: true }));
  const bytes = gzipSync(Buffer.from(chunk({ content: randomBytes(20_000).toString("hex") })));
  const part = (n) => bytes.subarray(Math.floor((bytes.length * n) / 4), Math.floor((bytes.length * (n + 1)) / 4));
  await stream.send(part(0));
  // Answers that are given up after IDLE_TIMEOUT are the clock: this one is never quiet for as long.
  const silences = [0, 1, 2].map(() => commandedStream());
  const given = [];
  for (const [n, silence] of silences.entries()) {
    upstream.next(silence.answer);
    given.push(send(small.origin, { ...request(fresh(), { stream: true }), mayBreak: true }));
    await within(silence.begun, "another call");
    await silence.send(chunk({ content: "a" }));
    await stream.send(part(n + 1));
    if (n === 0) await given[0];
  }
  await Promise.all(given);
  await stream.end();
  const got = [];
  for (let piece; (piece = await leader.next()) !== null; ) got.push(piece);
  assert.equal(gunzipSync(Buffer.concat(got)).toString(), gunzipSync(bytes).toString());
});

test("a coded error reaches its leader whole, though a follower of it leaves", async () => {
  const question = fresh();
  const body = gzipSync(JSON.stringify({ error: { message: "x".repeat(20_000), code: "nope" } }));
  const headers = { "content-type": "application/json", "content-encoding": "gzip" };
  const stream = commandedStream({ status: 404, headers });
  upstream.next(stream.answer);
  const leading = open(proxy.origin, request(question));
  const following = open(proxy.origin, request(question));
  const first = await Promise.race([leading, following]);
  await stream.send(body.subarray(0, 50));
  await stream.send(body.subarray(50));
  await stream.end();
  const other = await (first === (await leading) ? following : leading);
  if (other.status === 404) other.leave();
  const got = [];
  for (let piece; (piece = await first.next()) !== null; ) got.push(piece);
  assert.equal(JSON.parse(gunzipSync(Buffer.concat(got))).error.code, "nope");
});

test("a refresh that fails does not throw away the answer of the call that it overtook", async () => {
  const question = fresh();
  const before = proxy.lines.length;
  const release = held({ json: completion("good") });
  const first = ask(question);
  await upstream.asked(1);
  upstream.next({ status: 500, json: {} });
  assert.equal((await ask(question, { headers: { "x-proxy-refresh": "true" } })).status, 500);
  release();
  assert.equal((await first).status, 200);
  await proxy.logged(before + 2);
  const reply = await ask(question);
  assert.equal(expect.cacheStatus(reply), "HIT");
  assert.equal(reply.body.toString(), JSON.stringify(completion("good")));
});

test("an error that is still coming in is not for who comes after it", async () => {
  const question = fresh();
  const trickle = commandedStream({ status: 503, headers: { "content-type": "application/json" } });
  upstream.next(trickle.answer);
  upstream.otherwise({ json: completion("Hello") });
  const leader = await open(proxy.origin, request(question));
  assert.equal(leader.status, 503);
  const late = await ask(question);
  assert.equal(late.body.toString(), JSON.stringify(completion("Hello")));
  await trickle.send("{}");
  await trickle.end();
  assert.equal(await rest(leader), "{}");
});

test("an answer beyond CACHE_MAX_BYTES is passed on whole to its leader; who comes later asks", async () => {
  const small = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "1000" } });
  const question = fresh();
  const stream = commandedStream();
  upstream.next(stream.answer);
  upstream.otherwise({ headers: { "content-type": "text/event-stream" }, body: whole(1) });
  const leader = await open(small.origin, request(question, { stream: true }));
  const long = words(40).join("");
  await stream.send(long);
  assert.equal(await read(leader, long.length), long);
  const late = await send(small.origin, request(question, { stream: true }));
  assert.equal(late.body.toString(), whole(1));
  await stream.send(DONE);
  await stream.end();
  assert.equal(await rest(leader), DONE);
});
