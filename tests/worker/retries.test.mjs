// Which requests are retried, how often, after how long, and what the client gets. Only the least length of a wait is measured:
// that a wait is skipped or short shows in the response, never in the time it takes.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { after, beforeEach, describe, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { assertHeaders, assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { cacheStatusOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ageEntries } from "../../testkit/entry.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const BASE = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "2",
  BASE_RETRY_DELAY: "0.01",
  RATE_LIMIT_WAIT: "0.01",
};
const proxy = await worker({ vars: BASE });
const limited = await worker({ vars: { ...BASE, TIMEOUT: "2" } });
// Own delays exceed TIMEOUT: only a header of the upstream's can cause a second call.
const neverByItself = await worker({ vars: { ...BASE, BASE_RETRY_DELAY: "100000000", RATE_LIMIT_WAIT: "100000" } });

beforeEach(async () => {
  upstream.reset();
  for (const instance of [proxy, limited, neverByItself]) await instance.clear();
});

const NEVER = new Promise(() => {});
const KEY = { authorization: "Bearer sk-test" };
const chat = (fields = {}, headers = {}) => chatRequest("Hi", { headers, model: "gpt-4o", ...fields });
/** @type {(instance?: any, request?: import("../../testkit/client.mjs").SentRequest, more?: object) => Promise<any>} */
const ask = (instance = proxy, request = chat(), more = {}) =>
  instance.settled(() => send(instance.origin, { ...request, ...more }));
const error = (status, headers = {}) => ({ status, headers, json: { error: { message: `a ${status}` } } });
const GOOD = { json: result("good") };
const STREAM = { headers: EVENT_STREAM, body: chatEvent({ content: "Hi" }, "stop") + DONE };
const closeConnection = (_call, res) => void res.destroy();

function assertGood(reply, calls) {
  assert.equal(reply.status, 200, reply.body.toString());
  assert.equal(reply.body.toString(), resultText("good"));
  assert.equal(upstream.calls.length, calls, "calls to the upstream");
}

// The client has this response of the upstream's, byte for byte and with all its headers, after so many calls.
function assertForwarded(reply, response, calls) {
  assert.equal(reply.status, response.status);
  assertSameBytes(reply.body, Buffer.from(response.body ?? JSON.stringify(response.json)), "the last response");
  assertHeaders(reply.headers, response.headers ?? {}, "the last response");
  assert.equal(upstream.calls.length, calls, "calls to the upstream");
}

function assertRetries(instance, n) {
  assert.equal(instance.lines.at(-1).retries, n, "`retries` in the log");
}

// Queues the responses and records when each call arrived, in `at`.
function timed(...responses) {
  const at = [];
  const recording = (response) => (_call) => {
    at.push(performance.now());
    return response;
  };
  upstream.next(...responses.map(recording));
  return at;
}

// One side of the wire reads its clock in whole milliseconds.
const PRECISION_MS = 5;
function assertWaited(at, ms) {
  assert.ok(at[1] - at[0] >= ms - PRECISION_MS, `retried after ${at[1] - at[0]} ms instead of ${ms}`);
}

describe("the failures that are retried", () => {
  for (const status of [408, 409, 429, 500, 502, 503, 504, 529, 520, 521, 522, 523, 524, 525, 526, 530]) {
    test(`${status} is retried, and the next response is sent and stored`, async () => {
      upstream.next(error(status), GOOD);
      const reply = await ask();
      assertGood(reply, 2);
      assert.equal(xCacheStatusOf(reply), "MISS");
      assert.equal(cacheStatusOf(reply).fwdStatus, 200);
      assertRetries(proxy, 1);
      assert.equal(xCacheStatusOf(await ask()), "HIT");
      assert.equal(proxy.lines.at(-1).retries, undefined, "a hit has no retries");
    });
  }

  for (const status of [
    300, 302, 400, 401, 402, 403, 404, 405, 410, 413, 415, 418, 422, 424, 431, 451, 501, 505, 507,
  ]) {
    test(`${status} is not retried`, async () => {
      const failure = error(status, { "x-request-id": "req_1" });
      upstream.next(failure);
      assertForwarded(await ask(), failure, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });
  }

  test("a connection that is closed before the response is retried", async () => {
    upstream.next(closeConnection, GOOD);
    assertGood(await ask(), 2);
    assertRetries(proxy, 1);
  });

  test("a response that is not HTTP is retried", async () => {
    upstream.next((_call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"), GOOD);
    assertGood(await ask(), 2);
  });

  test("refused connections are retried as often as MAX_RETRIES allows", async () => {
    await upstream.stopListening();
    const reply = await ask();
    await upstream.listen();
    assert.equal(reply.status, 502);
    assertProxyError(reply, "upstream_unreachable");
    assertRetries(proxy, 2);
  });

  test("failures of several kinds are retried", async () => {
    upstream.next(closeConnection, error(503), GOOD);
    assertGood(await ask(), 3);
    assertRetries(proxy, 2);
  });

  test("x-should-retry: false prevents a retry", async () => {
    const failure = error(500, { "x-should-retry": "false" });
    upstream.next(failure);
    assertForwarded(await ask(), failure, 1);
  });

  test("x-should-retry: true causes a retry of any error", async () => {
    upstream.next(error(404, { "x-should-retry": "true" }), GOOD);
    assertGood(await ask(), 2);
  });

  test("x-should-retry: true does not retry a success", async () => {
    upstream.next({ headers: { "x-should-retry": "true" }, ...GOOD });
    assertGood(await ask(), 1);
  });

  test("MAX_RETRIES=0 retries nothing", async () => {
    const once = await worker({ vars: { ...BASE, MAX_RETRIES: "0" } });
    const failure = error(503, { "retry-after": "0" });
    upstream.next(failure);
    assertForwarded(await ask(once), failure, 1);
  });

  test("each attempt sends the same request", async () => {
    upstream.next(error(500), closeConnection, GOOD);
    assertGood(await ask(proxy, chat({}, { "idempotency-key": "once", "x-stainless-retry-count": "0" })), 3);
    const heads = upstream.calls.map(({ method, url, headers }) => ({ method, url, headers }));
    assert.deepEqual(heads[1], heads[0]);
    assert.deepEqual(heads[2], heads[0]);
    for (const index of [0, 2]) assert.equal((await upstream.calls[index].bodyReceived).toString(), chat().body);
  });
});

describe("the wait before a retry", () => {
  test("Retry-After in seconds is respected", async () => {
    const at = timed(error(503, { "retry-after": "1" }), GOOD);
    assertGood(await ask(), 2);
    assertWaited(at, 1000);
  });

  test("Retry-After after a 429 replaces RATE_LIMIT_WAIT", async () => {
    upstream.next(error(429, { "retry-after": "0" }), GOOD);
    assertGood(await ask(neverByItself), 2);
  });

  test("Retry-After as a date is respected", async () => {
    // Dates are in whole seconds: this one is between one and two from now.
    const date = new Date(Math.floor(Date.now() / 1000) * 1000 + 2000);
    let second;
    upstream.next(error(503, { "retry-after": date.toUTCString() }), () => {
      second = Date.now();
      return GOOD;
    });
    assertGood(await ask(), 2);
    assert.ok(second >= date.getTime() - PRECISION_MS, `retried ${date.getTime() - second} ms too early`);
  });

  test("Retry-After as a past date means no wait", async () => {
    upstream.next(error(503, { "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT" }), GOOD);
    assertGood(await ask(neverByItself), 2);
  });

  test("retry-after-ms precedes Retry-After", async () => {
    const at = timed(error(503, { "retry-after-ms": "300", "retry-after": "100000" }), GOOD);
    assertGood(await ask(), 2);
    assertWaited(at, 300);
  });

  test("an invalid Retry-After is ignored", async () => {
    upstream.next(error(503, { "retry-after": "soon" }), GOOD);
    assertGood(await ask(), 2);
  });

  test("RATE_LIMIT_WAIT applies after a 429 without Retry-After, and after nothing else", async () => {
    const slow = await worker({ vars: { ...BASE, RATE_LIMIT_WAIT: "0.5" } });
    const at = timed(error(429), GOOD);
    assertGood(await ask(slow), 2);
    assertWaited(at, 500);
    // With a wait beyond TIMEOUT a 429 is the last response, and a 503 is not.
    const waiting = await worker({ vars: { ...BASE, RATE_LIMIT_WAIT: "100000" } });
    upstream.reset();
    await waiting.clear();
    upstream.next(error(429));
    assertForwarded(await ask(waiting), error(429), 1);
    upstream.next(error(503), GOOD);
    assertGood(await ask(waiting), 3);
  });

  for (const [name, headers] of [
    ["Retry-After", { "retry-after": "100000" }],
    ["retry-after-ms", { "retry-after-ms": "100000000" }],
    ["Retry-After as a date", { "retry-after": "Fri, 31 Dec 2049 23:59:59 GMT" }],
  ]) {
    test(`${name} beyond TIMEOUT is not waited for: the client gets the response`, async () => {
      const failure = error(503, headers);
      upstream.next(failure);
      assertForwarded(await ask(limited), failure, 1);
    });
  }

  test("a backoff beyond TIMEOUT is not waited for", async () => {
    // BASE_RETRY_DELAY is three years: the random share of it that TIMEOUT allows is one in 300,000.
    upstream.next(error(500));
    assertForwarded(await ask(neverByItself), error(500), 1);
  });
});

describe("an exceeded quota", () => {
  const quota = (headers = {}) => ({
    status: 429,
    headers: { "x-request-id": "req_1", ...headers },
    body: '{ "error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"} }\n',
  });

  test("an exceeded quota is not retried, and the client gets every byte", async () => {
    const failure = quota();
    upstream.next(failure);
    assertForwarded(await ask(), failure, 1);
    assert.equal(proxy.lines.at(-1).retries, undefined);
  });

  test("an exceeded quota is not retried in spite of Retry-After", async () => {
    const failure = quota({ "retry-after": "0" });
    upstream.next(failure);
    assertForwarded(await ask(), failure, 1);
  });

  test("an exceeded quota is recognized by its type alone", async () => {
    const failure = { status: 429, json: { error: { message: "m", type: "insufficient_quota", code: null } } };
    upstream.next(failure);
    assertForwarded(await ask(), failure, 1);
  });

  test("an exceeded quota is recognized in a compressed response", async () => {
    const { body } = quota();
    const coded = gzipSync(body);
    upstream.next({ ...quota({ "content-encoding": "gzip" }), body: undefined, base64: coded.toString("base64") });
    const reply = await ask();
    assert.equal(reply.status, 429);
    assert.equal(upstream.calls.length, 1);
    assert.equal(reply.headers["content-encoding"], "gzip");
    assert.equal(gunzipSync(reply.body).toString(), body);
  });

  test("an exceeded quota is not retried for a bypassing request", async () => {
    const failure = quota();
    upstream.next(failure);
    assertForwarded(await ask(proxy, { method: "GET", path: "/proxy/models", headers: KEY }), failure, 1);
  });

  test("an exceeded quota after another failure ends the retries", async () => {
    const failure = quota();
    upstream.next(error(500), failure);
    assertForwarded(await ask(), failure, 2);
  });

  test("an exceeded rate limit is not an exceeded quota", async () => {
    upstream.next(
      { status: 429, json: { error: { code: "rate_limit_exceeded", message: "insufficient_quota" } } },
      GOOD,
    );
    assertGood(await ask(), 2);
  });

  test("another status with the code of an exceeded quota is retried", async () => {
    upstream.next({ ...quota(), status: 503 }, GOOD);
    assertGood(await ask(), 2);
  });
});

describe("the last response", () => {
  const numbered = (n) => ({
    status: 503,
    headers: {
      "x-request-id": `req_${n}`,
      "retry-after": "0",
      "content-type": "text/html; charset=utf-8",
      "x-custom": `${n}`,
    },
    body: `<html>\r\n try ${n} \u00fc </html>\n`,
  });

  for (const [kind, request] of /** @type {any[][]} */ ([
    ["a cacheable request", chat()],
    ["a stream", chat({ stream: true })],
    ["a request that is not stored", chat({}, { "cache-control": "no-store" })],
    ["a bypassing request", { method: "GET", path: "/proxy/models", headers: KEY }],
  ])) {
    test(`${kind}: after MAX_RETRIES the client gets the last response, byte for byte`, async () => {
      upstream.next(...[1, 2, 3, 4].map(numbered));
      assertForwarded(await ask(proxy, request), numbered(3), 3);
      assertRetries(proxy, 2);
      assert.deepEqual(await proxy.entries(), []);
    });

    test(`${kind}: a compressed last response is unchanged`, async () => {
      const coded = gzipSync(randomBytes(3000).toString("hex"));
      const failure = (n) => ({
        status: 500,
        headers: { "content-encoding": "gzip", "x-request-id": `req_${n}` },
        base64: coded.toString("base64"),
      });
      upstream.next(...[1, 2, 3].map(failure));
      const reply = await ask(proxy, request);
      assertForwarded(reply, { ...failure(3), body: coded }, 3);
    });

    test(`${kind}: if TIMEOUT ends the next attempt, the client gets the previous response`, async () => {
      upstream.next(numbered(1), { hold: NEVER });
      assertForwarded(await ask(limited, request), numbered(1), 2);
      assertRetries(limited, 1);
    });

    test(`${kind}: if the next attempts get no response, the client gets the previous one`, async () => {
      upstream.next(numbered(1), closeConnection, closeConnection);
      assertForwarded(await ask(proxy, request), numbered(1), 3);
    });
  }

  test("the last response has no cookies and repeats no header", async () => {
    const cookies = ["a=1; Path=/", "b=2; Path=/"];
    upstream.next({ ...numbered(1), headers: { ...numbered(1).headers, "set-cookie": cookies } }, { hold: NEVER });
    const reply = await ask(limited);
    assert.equal(reply.headers["set-cookie"], undefined);
    const names = reply.rawHeaders.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase());
    assert.deepEqual(
      names.filter((name, index) => names.indexOf(name) !== index),
      [],
    );
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(cacheStatusOf(reply).fwdStatus, 503);
  });

  test("a compressed response has the same text after a failed retry", async () => {
    const body = JSON.stringify({ error: { message: "x".repeat(2000) } });
    upstream.next(
      { status: 500, headers: { "content-encoding": "gzip" }, base64: gzipSync(body).toString("base64") },
      { hold: NEVER },
    );
    const reply = await ask(limited);
    assert.equal(reply.status, 500);
    assert.equal(reply.headers["content-encoding"], "gzip");
    assert.equal(gunzipSync(reply.body).toString(), body);
  });

  test("without any response the client gets the error of the last attempt", async () => {
    upstream.next(closeConnection, { hold: NEVER });
    const reply = await ask(limited);
    assert.equal(reply.status, 504);
    assertProxyError(reply, "timeout");
    assertRetries(limited, 1);
  });

  test("TIMEOUT covers all attempts together", async () => {
    const at = timed(error(503, { "retry-after": "1" }), error(503, { "retry-after": "1" }), GOOD);
    const reply = await ask(limited);
    // Two waits of a second do not fit into TIMEOUT=2.
    assertForwarded(reply, error(503, { "retry-after": "1" }), 2);
    assertWaited(at, 1000);
  });
});

describe("requests that may have side effects", () => {
  const form = (size) => {
    const boundary = "----reprise-retries";
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/octet-stream\r\n\r\n`;
    return {
      path: "/proxy/files",
      headers: { ...KEY, "content-type": `multipart/form-data; boundary=${boundary}` },
      body: Buffer.concat([Buffer.from(head), randomBytes(size), Buffer.from(`\r\n--${boundary}--\r\n`)]),
    };
  };
  const json = (path, body) => ({
    path,
    headers: { ...KEY, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const requests = {
    "an upload": form(300_000),
    "a batch": json("/proxy/batches", {
      input_file_id: "f",
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    }),
    "a run": json("/proxy/threads/t/runs", { assistant_id: "a" }),
    "a response to an earlier one": json("/proxy/responses", {
      model: "m",
      input: "Hi",
      previous_response_id: "resp_1",
    }),
    "a response in the background": json("/proxy/responses", { model: "m", input: "Hi", background: true }),
    "a POST without a body": { path: "/proxy/batches/b/cancel", headers: KEY },
    PATCH: { ...json("/proxy/files/f", { a: 1 }), method: "PATCH" },
  };

  async function assertSentComplete(request) {
    for (const call of upstream.calls) {
      const body = Buffer.from(request.body ?? "");
      assertSameBytes(await withTimeout(call.bodyReceived, "the body sent upstream"), body, "the body sent upstream");
      const { headers } = call;
      if (request.body !== undefined)
        assert.equal(headers["content-length"], String(body.length), JSON.stringify(headers));
    }
  }

  for (const [kind, request] of Object.entries(requests)) {
    for (const [status, headers] of [
      [429, {}],
      [429, { "retry-after": "0" }],
      [503, { "retry-after": "0" }],
      [521, {}],
      [523, {}],
    ]) {
      test(`${kind} is retried with its whole body on ${status} ${JSON.stringify(headers)}`, async () => {
        upstream.next(error(status, headers), error(status, headers), GOOD);
        assertGood(await ask(proxy, request), 3);
        await assertSentComplete(request);
        assertRetries(proxy, 2);
      });
    }

    for (const [status, headers] of [
      [500, {}],
      [500, { "retry-after": "0", "x-should-retry": "true" }],
      [503, {}],
      [503, { "retry-after-ms": "0" }],
      [502, {}],
      [504, {}],
      [529, {}],
      [520, {}],
      [408, {}],
      [409, {}],
    ]) {
      test(`${kind} is not retried on ${status} ${JSON.stringify(headers)}`, async () => {
        const failure = error(status, headers);
        upstream.next(failure);
        assertForwarded(await ask(proxy, request), failure, 1);
        await assertSentComplete(request);
      });
    }

    test(`${kind} is not retried if the connection is closed`, async () => {
      upstream.next(async (call, res) => {
        await call.bodyReceived;
        res.destroy();
      });
      const reply = await ask(proxy, request);
      assert.equal(reply.status, 502);
      assertProxyError(reply, "upstream_unreachable");
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });
  }

  test("an upload that is refused before its end is retried with its whole body", async () => {
    const request = form(3_000_000);
    // The response comes before the request's end. If the connection were closed, too, it would count as broken.
    upstream.next((_call, res) => void res.writeHead(429, { "retry-after": "0", "content-length": "0" }).end(), GOOD);
    assertGood(await ask(proxy, request), 2);
    assertSameBytes(await upstream.last.bodyReceived, request.body, "the body sent upstream");
  });

  test("an upload in chunks is sent once, whatever the response", async () => {
    const request = form(50_000);
    const failure = error(429, { "retry-after": "0" });
    upstream.next(failure);
    assertForwarded(
      await ask(proxy, { ...request, body: [request.body.subarray(0, 30_000), request.body.subarray(30_000)] }),
      failure,
      1,
    );
    assertSameBytes(await upstream.last.bodyReceived, request.body, "the body sent upstream");
  });

  for (const [method, body] of [["GET"], ["HEAD"], ["DELETE"], ["OPTIONS"], ["PUT", "whole \u00fc"]]) {
    test(`${method} has no side effects: every failure is retried`, async () => {
      upstream.next(error(500), closeConnection, { json: result("good") });
      const reply = await ask(proxy, { method, path: "/proxy/files/f", headers: KEY, body });
      assert.equal(reply.status, 200);
      assert.equal(upstream.calls.length, 3);
      assert.deepEqual(
        upstream.calls.map((call) => call.method),
        [method, method, method],
      );
      for (const index of [0, 2]) assert.equal((await upstream.calls[index].bodyReceived).toString(), body ?? "");
    });
  }
});

// A request whose response is not awaited. `disconnect` resets the connection: workerd takes a mere end for a client that has
// sent everything and still listens.
/** @param {any} instance @param {import("../../testkit/client.mjs").SentRequest} request */
function begin(instance, { method = "POST", path, headers, body }) {
  const { hostname, port } = new URL(instance.origin);
  const length = body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) };
  const req = http.request({ hostname, port, method, path, headers: { ...headers, ...length }, agent: false });
  req.on("error", () => {});
  req.end(body);
  return { disconnect: () => req.socket.resetAndDestroy() };
}

describe("a client that disconnects", () => {
  const stored = { "a cacheable request": chat(), "a stream": chat({ stream: true }) };
  const bypassing = {
    "a request that is not stored": chat({}, { "cache-control": "no-store" }),
    "a bypassing request": { method: "GET", path: "/proxy/models", headers: KEY },
  };

  for (const [kind, request] of Object.entries(stored)) {
    test(`${kind} is not retried if the client disconnects before the failure`, async () => {
      const logged = proxy.lines.length + 1;
      const release = upstream.holdNext(error(503, { "retry-after": "2" }));
      const client = begin(proxy, request);
      await upstream.received(1);
      client.disconnect();
      release();
      await proxy.logged(logged);
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });

    test(`${kind} is not retried if the client disconnects during the wait`, async () => {
      const logged = proxy.lines.length + 1;
      let disconnect;
      const client = begin(proxy, request);
      upstream.next((_call, res) => {
        res.writeHead(503, { "retry-after": "2", "content-length": "0" }).end();
        res.once("finish", () => disconnect());
      });
      disconnect = () => client.disconnect();
      await proxy.logged(logged);
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });

    test(`${kind} is stored if the client disconnects before a success`, async () => {
      const logged = proxy.lines.length + 1;
      const release = upstream.holdNext(request.body.includes('"stream":true') ? STREAM : GOOD);
      const client = begin(proxy, request);
      await upstream.received(1);
      client.disconnect();
      release();
      await proxy.logged(logged);
      assert.equal(xCacheStatusOf(await ask(proxy, request)), "HIT");
      assert.equal(upstream.calls.length, 1);
    });
  }

  for (const [kind, request] of Object.entries(bypassing)) {
    test(`${kind} is aborted upstream and not retried if the client disconnects`, async () => {
      upstream.next({ hold: NEVER });
      const client = begin(proxy, request);
      await upstream.received(1);
      client.disconnect();
      await withTimeout(upstream.last.disconnected, "the upstream's connection to be closed");
      // Another request is the clock: when it has been sent three times, the first would have been retried.
      upstream.next(error(500), error(500), GOOD);
      assertGood(await ask(proxy, chat({ seed: 1 })), 4);
    });
  }

  test("a background revalidation continues without its client", async () => {
    const revalidating = await worker({ vars: { ...BASE, CACHE_TTL: "60", STALE_WHILE_REVALIDATE: "30" } });
    upstream.next({ json: result("old") });
    await ask(revalidating);
    await ageEntries(revalidating, 70);
    const release = upstream.holdNext(error(500));
    upstream.next(GOOD);
    const logged = revalidating.lines.length + 1;
    const reply = await send(revalidating.origin, chat());
    assert.equal(xCacheStatusOf(reply), "UPDATING");
    assert.equal(reply.body.toString(), resultText("old"));
    release();
    assert.equal((await revalidating.logged(logged)).retries, 1);
    assertGood(await ask(revalidating), 3);
  });
});

describe("a response that has started", () => {
  for (const [kind, request, response] of /** @type {any[][]} */ ([
    ["a stream that is truncated", chat({ stream: true }), { ...STREAM, truncate: 40 }],
    ["a stream that is truncated before its first byte", chat({ stream: true }), { ...STREAM, truncate: 0 }],
    ["an object that is truncated", chat(), { headers: { "content-length": "13" }, ...GOOD, truncate: 5 }],
    [
      "an object that is truncated before its first byte",
      chat(),
      { headers: { "content-length": "13" }, ...GOOD, truncate: 0 },
    ],
    [
      "a file that is truncated",
      { method: "GET", path: "/proxy/files/f/content", headers: KEY },
      { body: "0123456789", truncate: 5 },
    ],
  ])) {
    test(`${kind} is not retried`, async () => {
      upstream.next(response);
      const reply = await ask(proxy, request, { allowTruncation: true });
      assert.equal(reply.status, 200);
      assert.equal(reply.complete, false, "a truncated response looks complete");
      assertSameBytes(
        reply.body,
        Buffer.from(response.body ?? JSON.stringify(response.json)).subarray(0, response.truncate),
        "what was received",
      );
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
      assert.deepEqual(await proxy.entries(), []);
    });
  }

  test("a stream that carries an error is not retried", async () => {
    const body = 'data: {"error":{"message":"overloaded","code":503}}\n\n';
    upstream.next({ ...STREAM, body });
    const reply = await ask(proxy, chat({ stream: true }));
    assert.equal(reply.body.toString(), body);
    assert.equal(upstream.calls.length, 1);
  });

  test("a stream is retried before it has started", async () => {
    upstream.next(error(529), closeConnection, STREAM);
    const reply = await ask(proxy, chat({ stream: true }));
    assert.equal(reply.body.toString(), STREAM.body);
    assert.equal(upstream.calls.length, 3);
    assert.equal(xCacheStatusOf(await ask(proxy, chat({ stream: true }))), "HIT");
  });
});

describe("a stale entry", async () => {
  const stale = await worker({ vars: { ...BASE, CACHE_TTL: "60", STALE_IF_ERROR: "30" } });
  beforeEach(async () => {
    await stale.clear();
    upstream.next({ json: result("old") });
    await ask(stale);
    await ageEntries(stale, 70);
  });

  test("a stale entry is served only if the last attempt fails", async () => {
    upstream.next(error(503), error(503), error(503));
    const reply = await ask(stale);
    assert.deepEqual([reply.body.toString(), xCacheStatusOf(reply)], [resultText("old"), "STALE"]);
    assert.equal(upstream.calls.length, 4);
    assertRetries(stale, 2);
  });

  test("a stale entry is not served if an attempt succeeds", async () => {
    upstream.next(error(503), closeConnection, GOOD);
    const reply = await ask(stale);
    assertGood(reply, 4);
    assert.equal(xCacheStatusOf(reply), "EXPIRED");
  });

  test("a stale entry is served at once if the quota is exceeded", async () => {
    upstream.next({ status: 429, json: { error: { code: "insufficient_quota" } } });
    const reply = await ask(stale);
    assert.deepEqual([reply.body.toString(), xCacheStatusOf(reply)], [resultText("old"), "STALE"]);
    assert.equal(upstream.calls.length, 2);
  });
});
