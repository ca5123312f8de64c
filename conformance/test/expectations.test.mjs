// Each expectation of the language can hold, and can fail.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Judge } from "../engine/expectations.mjs";
import { NotApplicable } from "../engine/outcome.mjs";

const KEY = "0".repeat(64);
const TOKEN = "cf0123456789abcdef";
const TEXT = `It is ${TOKEN}-response-1-, no more.`;

const json = (value) => Buffer.from(JSON.stringify(value));
const completion = { id: "c", choices: [{ message: { content: TEXT } }], usage: {} };
const request = { api: "chat", body: json({ model: "m", input: ["a"] }) };

const call = {
  n: 1,
  cacheKey: "first",
  method: "POST",
  url: "/v1/chat/completions?a=1",
  headers: { "content-type": "application/json" },
  body: request.body,
  sent: json(completion),
  receivedInTime: true,
};

const miss = {
  status: 200,
  complete: true,
  headers: {
    "content-type": "application/json",
    "x-cache-status": "MISS",
    "cache-status": `reprise; fwd=uri-miss; fwd-status=200; key="${KEY}"; detail=expired`,
  },
  body: json(completion),
  calls: [call],
  by: 1,
  cacheKey: "first",
  request,
};
const hit = { ...miss, calls: [], headers: { ...miss.headers, age: "3" } };
const ownError = { error: { message: "no", type: "proxy_error", code: "not_found", param: null } };
const streamed = { ...miss, headers: { ...miss.headers, "content-type": "text/event-stream" } };

/** Expectation → the reply, what holds of it, and what does not; `hit` is the hit that followed. */
const EXPECTATIONS = {
  status: [miss, 200, 201],
  calls: [miss, 1, 2],
  maxCalls: [miss, 1, 0],
  cacheStatus: [miss, "MISS", "HIT"],
  detail: [miss, "expired", null],
  headers: [miss, { "content-type": { matches: "json" }, age: null }, { "content-type": null }],
  repriseHeaders: [miss, { "x-cache-status": "MISS" }, { "x-cache-status": { lacks: "MISS" } }],
  hitHeaders: [miss, { age: "3" }, { age: null }, hit],
  sent: [miss, { method: "POST", url: { matches: "a=1$" }, body: "request" }, { url: "/v1/chat/completions" }],
  body: [miss, "response", { json: { id: "d" } }],
  sameBytesOnHit: [miss, true, undefined, hit],
  defaultText: [miss, true, undefined],
  mode: [miss, "plain", "stream"],
  usage: [miss, true, false],
  contains: [miss, "It is", "It was"],
  truncated: [{ ...miss, complete: false }, true, undefined],
  notBuffered: [miss, true, undefined],
  isError: [{ ...miss, status: 400 }, true, undefined],
};

/** Flags can only be true: a reply for which each does not hold. */
const WRONG_REPLIES = {
  sameBytesOnHit: [miss, { ...hit, body: json({}) }],
  defaultText: [{ ...miss, body: json({ ...completion, choices: [{ message: { content: "It is" } }] }) }],
  truncated: [miss],
  notBuffered: [{ ...miss, calls: [{ ...call, receivedInTime: false }] }],
  isError: [miss],
};

function judge(vars = {}) {
  const one = new Judge({ script: { token: TOKEN, calls: [call] }, profile: "reprise", vars });
  one.firstBodies.set(1, miss.body);
  one.bodies.set(0, miss.body);
  return one;
}

const check = (expect, first, later) => judge().details(expect, first, later, { response: call.sent });

describe("an expectation", () => {
  for (const [field, [reply, right, wrong, later]] of Object.entries(EXPECTATIONS)) {
    test(`${field} holds and fails`, () => {
      check({ [field]: right }, reply, later);
      const [wrongReply, wrongHit] = WRONG_REPLIES[field] ?? [reply, later];
      assert.throws(() => check({ [field]: wrong === undefined ? right : wrong }, wrongReply, wrongHit));
    });
  }

  test("of a body holds and fails in each form", () => {
    const body = (expected, reply = miss) => check({ body: expected }, reply);
    for (const right of ["response", { step: 0 }, { json: completion }, { text: JSON.stringify(completion) }])
      body(right);
    const other = { ...miss, body: json({ id: "d" }) };
    for (const wrong of ["response", { step: 0 }, { json: completion }, { text: "" }, { error: "not_found" }]) {
      assert.throws(() => body(wrong, other), JSON.stringify(wrong));
    }
    const error = { ...miss, body: json(ownError) };
    body({ error: "not_found" }, error);
    assert.throws(() => body({ error: "timeout" }, error));
  });

  test("of a configuration error demands the variable's name", () => {
    const reply = {
      ...miss,
      body: json({ error: { ...ownError.error, code: "misconfigured", message: "CACHE_TTL is wrong" } }),
    };
    judge({ CACHE_TTL: "x" }).details({ body: { error: "misconfigured" } }, reply);
    assert.throws(() => judge({ TIMEOUT: "x" }).details({ body: { error: "misconfigured" } }, reply));
  });

  test("of what was sent holds and fails in each form", () => {
    const value = JSON.parse(request.body.toString());
    for (const sent of [
      { headers: { "content-type": "application/json" } },
      { body: { json: value } },
      { url: call.url },
    ]) {
      check({ sent }, miss);
    }
    for (const sent of [
      { method: "GET" },
      { headers: { "x-a": "1" } },
      { body: { json: {} } },
      { body: { text: "" } },
    ]) {
      assert.throws(() => check({ sent }, miss), JSON.stringify(sent));
    }
    assert.throws(() => check({ sent: { body: "request" } }, { ...miss, request: { body: json({}) } }));
    const silent = new Judge({ script: { token: TOKEN, calls: [] }, profile: "reprise" });
    assert.throws(() => silent.details({ sent: { method: "POST" } }, hit), /not called/);
  });

  test("of a member that is not forwarded makes the case not applicable", () => {
    check({ forwards: { member: "model", header: "content-type", query: "a=1" } }, miss);
    for (const forwards of [{ member: "seed" }, { header: "x-a" }, { query: "b=1" }]) {
      assert.throws(() => check({ forwards }, miss), NotApplicable);
    }
  });

  test("of vectors demands that each belongs to its input", () => {
    const vectors = (third) => ({ ...miss, body: json({ data: [{ embedding: [1, 0.5, third] }] }) });
    const checksum = (7 * 31 + "a".codePointAt(0)) % 65521;
    check({ vectors: true }, vectors(checksum));
    assert.throws(() => check({ vectors: true }, vectors(checksum + 1)));
  });

  test("of a stream demands its end", () => {
    const event = `data: ${JSON.stringify({ choices: [{ delta: { content: TEXT } }] })}\n\n`;
    check({ mode: "stream", defaultText: true }, { ...streamed, body: Buffer.from(`${event}data: [DONE]\n\n`) });
    assert.throws(() => check({ defaultText: true }, { ...streamed, body: Buffer.from(event) }), /no end/);
  });

  test("is tested here, whatever its name", () => {
    const { $defs } = JSON.parse(readFileSync(new URL("../case.schema.json", import.meta.url), "utf8"));
    // These say how `cache` is judged, which engine.test.mjs tests with whole caches.
    const elsewhere = ["cache", "withinMs", "latest"];
    const tested = [...Object.keys(EXPECTATIONS), "forwards", "vectors", ...elsewhere];
    assert.deepEqual(Object.keys($defs.expect.properties).sort(), tested.sort());
  });
});

describe("a reply", () => {
  test("with a field of ours that is not valid is a failure", () => {
    const headers = { ...miss.headers, "cache-status": "reprise; fwd=perhaps" };
    assert.throws(() => check({ status: 200 }, { ...miss, headers }));
  });

  test("is a hit or a miss in its headers as in its upstream calls", () => {
    const one = judge();
    one.isMiss(miss);
    const hitHeaders = { ...hit.headers, "x-cache-status": "HIT", "cache-status": `reprise; hit; key="${KEY}"` };
    one.isHit({ ...hit, headers: hitHeaders }, "first");
    assert.throws(() => one.isHit(hit, "first"), /a hit has/);
    assert.throws(() => one.isMiss({ ...miss, headers: hitHeaders }), /a forwarded request has/);
    assert.throws(() => one.isHit({ ...hit, headers: hitHeaders }, "other"), { wrong: true });
    assert.throws(() => one.isBypass(miss), /not cached/);
    assert.throws(() => one.isMiss({ ...miss, foreign: true }), { wrong: true });
    assert.throws(() => one.isMiss({ ...hit, headers: hitHeaders }), /without an upstream call/);
    assert.throws(() => one.isHit({ ...hit, headers: hitHeaders, complete: false }, "first"), { wrong: true });
  });
});
