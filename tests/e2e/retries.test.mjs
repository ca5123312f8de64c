// What is asked again, how often, after how long, and what the client has in the end. Waits are checked from below only:
// that a wait is not begun, or is short, shows in the answer, never in the time it takes.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { after, beforeEach, describe, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { send } from "./support/client.mjs";
import { age } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const BASE = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "2",
  BASE_RETRY_DELAY: "0.01",
  RATE_LIMIT_WAIT: "0.01",
};
const proxy = await worker({ vars: BASE });
const hasty = await worker({ vars: { ...BASE, TIMEOUT: "2" } });
// Where nothing but a word of the upstream's can bring a second call within TIMEOUT.
const obedient = await worker({ vars: { ...BASE, BASE_RETRY_DELAY: "100000000", RATE_LIMIT_WAIT: "100000" } });

beforeEach(async () => {
  upstream.reset();
  for (const instance of [proxy, hasty, obedient]) await instance.clear();
});

const NEVER = new Promise(() => {});
const KEY = { authorization: "Bearer sk-test" };
const chat = (more = {}, headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", ...KEY, ...headers },
  body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hi" }], ...more }),
});
const ask = (instance = proxy, request = chat(), more = {}) =>
  instance.settled(() => send(instance.origin, { ...request, ...more }));
const error = (status, headers = {}) => ({ status, headers, json: { error: { message: `a ${status}` } } });
const GOOD = { json: { id: "good" } };
const STREAM = {
  headers: { "content-type": "text/event-stream" },
  body: 'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
};
const hangUp = (call, res) => void res.destroy();

function good(reply, calls) {
  assert.equal(reply.status, 200, reply.body.toString());
  assert.equal(reply.body.toString(), '{"id":"good"}');
  assert.equal(upstream.calls.length, calls, "calls to the upstream");
}

// The client has this answer of the upstream's to the byte, with all its headers, after so many calls.
function handedOn(reply, said, calls) {
  assert.equal(reply.status, said.status);
  expect.sameBytes(reply.body, Buffer.from(said.body ?? JSON.stringify(said.json)), "the last answer");
  expect.headers(reply.headers, said.headers ?? {}, "the last answer");
  assert.equal(upstream.calls.length, calls, "calls to the upstream");
}

function retries(instance, n) {
  assert.equal(instance.lines.at(-1).retries, n, "`retries` in the log");
}

// Answers as given, and notes when each call arrived, in `at`.
function timed(...answers) {
  const at = [];
  const noting = (answer) => (call) => {
    at.push(performance.now());
    return answer;
  };
  upstream.next(...answers.map(noting));
  return at;
}

// Clocks are read in whole milliseconds on one side of the wire and finer on the other.
const GRAIN_MS = 5;
function waited(at, ms) {
  assert.ok(at[1] - at[0] >= ms - GRAIN_MS, `asked again after ${at[1] - at[0]} ms instead of ${ms}`);
}

describe("which failures are repeated", () => {
  for (const status of [408, 409, 429, 500, 502, 503, 504, 529, 520, 521, 522, 523, 524, 525, 526, 530]) {
    test(`${status}: the next answer is the client's, and is stored`, async () => {
      upstream.next(error(status), GOOD);
      const reply = await ask();
      good(reply, 2);
      assert.equal(expect.cacheStatus(reply), "MISS");
      assert.match(reply.headers["cache-status"], /fwd-status=200(;|$)/);
      retries(proxy, 1);
      assert.equal(expect.cacheStatus(await ask()), "HIT");
      assert.equal(proxy.lines.at(-1).retries, undefined, "a hit is no retry");
    });
  }

  for (const status of [300, 302, 400, 401, 402, 403, 404, 405, 410, 413, 415, 418, 422, 424, 431, 451, 501, 505, 507]) {
    test(`${status} is not`, async () => {
      const said = error(status, { "x-request-id": "req_1" });
      upstream.next(said);
      handedOn(await ask(), said, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });
  }

  test("a connection that is closed before the answer", async () => {
    upstream.next(hangUp, GOOD);
    good(await ask(), 2);
    retries(proxy, 1);
  });

  test("an answer that is no HTTP", async () => {
    upstream.next((call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"), GOOD);
    good(await ask(), 2);
  });

  test("refused connections, as often as MAX_RETRIES allows", async () => {
    await upstream.refuse();
    const reply = await ask();
    await upstream.listen();
    assert.equal(reply.status, 502);
    expect.proxyError(reply, "upstream_unreachable");
    retries(proxy, 2);
  });

  test("failures of several kinds in a row", async () => {
    upstream.next(hangUp, error(503), GOOD);
    good(await ask(), 3);
    retries(proxy, 2);
  });

  test("x-should-retry: false ends it", async () => {
    const said = error(500, { "x-should-retry": "false" });
    upstream.next(said);
    handedOn(await ask(), said, 1);
  });

  test("x-should-retry: true repeats an error that would not be", async () => {
    upstream.next(error(404, { "x-should-retry": "true" }), GOOD);
    good(await ask(), 2);
  });

  test("x-should-retry: true repeats no answer", async () => {
    upstream.next({ headers: { "x-should-retry": "true" }, ...GOOD });
    good(await ask(), 1);
  });

  test("MAX_RETRIES=0 repeats nothing", async () => {
    const once = await worker({ vars: { ...BASE, MAX_RETRIES: "0" } });
    const said = error(503, { "retry-after": "0" });
    upstream.next(said);
    handedOn(await ask(once), said, 1);
  });

  test("each attempt is the same request", async () => {
    upstream.next(error(500), hangUp, GOOD);
    good(await ask(proxy, chat({}, { "idempotency-key": "once", "x-stainless-retry-count": "0" })), 3);
    const heads = upstream.calls.map(({ method, url, headers }) => ({ method, url, headers }));
    assert.deepEqual(heads[1], heads[0]);
    assert.deepEqual(heads[2], heads[0]);
    for (const index of [0, 2]) assert.equal((await upstream.calls[index].whole).toString(), chat().body);
  });
});

describe("how long is waited", () => {
  test("Retry-After in seconds", async () => {
    const at = timed(error(503, { "retry-after": "1" }), GOOD);
    good(await ask(), 2);
    waited(at, 1000);
  });

  test("Retry-After in seconds after a 429, instead of RATE_LIMIT_WAIT", async () => {
    upstream.next(error(429, { "retry-after": "0" }), GOOD);
    good(await ask(obedient), 2);
  });

  test("Retry-After as a date", async () => {
    // Dates are in whole seconds: this one is between one and two from now.
    const date = new Date(Math.floor(Date.now() / 1000) * 1000 + 2000);
    let second;
    upstream.next(error(503, { "retry-after": date.toUTCString() }), () => ((second = Date.now()), GOOD));
    good(await ask(), 2);
    assert.ok(second >= date.getTime() - GRAIN_MS, `asked again ${date.getTime() - second} ms too early`);
  });

  test("Retry-After as a date that is past: not at all", async () => {
    upstream.next(error(503, { "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT" }), GOOD);
    good(await ask(obedient), 2);
  });

  test("retry-after-ms, before Retry-After", async () => {
    const at = timed(error(503, { "retry-after-ms": "300", "retry-after": "100000" }), GOOD);
    good(await ask(), 2);
    waited(at, 300);
  });

  test("a Retry-After that cannot be read counts as none", async () => {
    upstream.next(error(503, { "retry-after": "soon" }), GOOD);
    good(await ask(), 2);
  });

  test("RATE_LIMIT_WAIT after a 429 that does not say, and after nothing else", async () => {
    const patient = await worker({ vars: { ...BASE, RATE_LIMIT_WAIT: "0.5" } });
    const at = timed(error(429), GOOD);
    good(await ask(patient), 2);
    waited(at, 500);
    // With a wait that TIMEOUT does not allow: a 429 is the last answer, and a 503 is not.
    const limited = await worker({ vars: { ...BASE, RATE_LIMIT_WAIT: "100000" } });
    upstream.reset();
    await limited.clear();
    upstream.next(error(429));
    handedOn(await ask(limited), error(429), 1);
    upstream.next(error(503), GOOD);
    good(await ask(limited), 3);
  });

  for (const [name, headers] of [
    ["Retry-After", { "retry-after": "100000" }],
    ["retry-after-ms", { "retry-after-ms": "100000000" }],
    ["Retry-After as a date", { "retry-after": "Fri, 31 Dec 2049 23:59:59 GMT" }],
  ]) {
    test(`${name} beyond TIMEOUT is not begun: the client has the answer, and waits itself`, async () => {
      const said = error(503, headers);
      upstream.next(said);
      handedOn(await ask(hasty), said, 1);
    });
  }

  test("a backoff beyond TIMEOUT is not begun", async () => {
    // BASE_RETRY_DELAY is three years: the random share of it that TIMEOUT allows is one in 300,000.
    upstream.next(error(500));
    handedOn(await ask(obedient), error(500), 1);
  });
});

describe("an empty account", () => {
  const quota = (headers = {}) => ({
    status: 429,
    headers: { "x-request-id": "req_1", ...headers },
    body: '{ "error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"} }\n',
  });

  test("is not asked again, and the client has every byte", async () => {
    const said = quota();
    upstream.next(said);
    handedOn(await ask(), said, 1);
    assert.equal(proxy.lines.at(-1).retries, undefined);
  });

  test("nor where Retry-After suggests it", async () => {
    const said = quota({ "retry-after": "0" });
    upstream.next(said);
    handedOn(await ask(), said, 1);
  });

  test("nor where the type alone says so", async () => {
    const said = { status: 429, json: { error: { message: "m", type: "insufficient_quota", code: null } } };
    upstream.next(said);
    handedOn(await ask(), said, 1);
  });

  test("nor where the answer is coded", async () => {
    const { body } = quota();
    const coded = gzipSync(body);
    upstream.next({ ...quota({ "content-encoding": "gzip" }), body: undefined, base64: coded.toString("base64") });
    const reply = await ask();
    assert.equal(reply.status, 429);
    assert.equal(upstream.calls.length, 1);
    assert.equal(reply.headers["content-encoding"], "gzip");
    assert.equal(gunzipSync(reply.body).toString(), body);
  });

  test("nor past the cache", async () => {
    const said = quota();
    upstream.next(said);
    handedOn(await ask(proxy, { method: "GET", path: "/proxy/models", headers: KEY }), said, 1);
  });

  test("may turn up after another failure", async () => {
    const said = quota();
    upstream.next(error(500), said);
    handedOn(await ask(), said, 2);
  });

  test("is told from haste", async () => {
    upstream.next({ status: 429, json: { error: { code: "rate_limit_exceeded", message: "insufficient_quota" } } }, GOOD);
    good(await ask(), 2);
  });

  test("is a 429: another status with that code is repeated", async () => {
    upstream.next({ ...quota(), status: 503 }, GOOD);
    good(await ask(), 2);
  });
});

describe("the last answer", () => {
  const numbered = (n) => ({
    status: 503,
    headers: { "x-request-id": `req_${n}`, "retry-after": "0", "content-type": "text/html; charset=utf-8", "x-custom": `${n}` },
    body: `<html>\r\n try ${n} \u00fc </html>\n`,
  });

  for (const [what, request] of [
    ["a question", chat()],
    ["a stream", chat({ stream: true })],
    ["a question that is not kept", chat({}, { "cache-control": "no-store" })],
    ["a request past the cache", { method: "GET", path: "/proxy/models", headers: KEY }],
  ]) {
    test(`${what}: after MAX_RETRIES the client has it, byte for byte`, async () => {
      upstream.next(...[1, 2, 3, 4].map(numbered));
      handedOn(await ask(proxy, request), numbered(3), 3);
      retries(proxy, 2);
      assert.deepEqual(await proxy.entries(), []);
    });

    test(`${what}: coded, it stays as it is`, async () => {
      const coded = gzipSync(randomBytes(3000).toString("hex"));
      const said = (n) => ({ status: 500, headers: { "content-encoding": "gzip", "x-request-id": `req_${n}` }, base64: coded.toString("base64") });
      upstream.next(...[1, 2, 3].map(said));
      const reply = await ask(proxy, request);
      handedOn(reply, { ...said(3), body: coded }, 3);
    });

    test(`${what}: when TIMEOUT ends the next attempt, it is the one before`, async () => {
      upstream.next(numbered(1), { hold: NEVER });
      handedOn(await ask(hasty, request), numbered(1), 2);
      retries(hasty, 1);
    });

    test(`${what}: when the next attempts get no answer, it is the one that came`, async () => {
      upstream.next(numbered(1), hangUp, hangUp);
      handedOn(await ask(proxy, request), numbered(1), 3);
    });
  }

  test("keeps cookies apart and says nothing twice", async () => {
    const cookies = ["a=1; Path=/", "b=2; Path=/"];
    upstream.next({ ...numbered(1), headers: { ...numbered(1).headers, "set-cookie": cookies } }, { hold: NEVER });
    const reply = await ask(hasty);
    assert.deepEqual(reply.headers["set-cookie"], cookies);
    const names = reply.rawHeaders.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase());
    assert.deepEqual(names.filter((name, index) => name !== "set-cookie" && names.indexOf(name) !== index), []);
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.match(reply.headers["cache-status"], /fwd-status=503(;|$)/);
  });

  test("coded, its text is the same when it was set aside", async () => {
    const body = JSON.stringify({ error: { message: "x".repeat(2000) } });
    upstream.next(
      { status: 500, headers: { "content-encoding": "gzip" }, base64: gzipSync(body).toString("base64") },
      { hold: NEVER },
    );
    const reply = await ask(hasty);
    assert.equal(reply.status, 500);
    assert.equal(reply.headers["content-encoding"], "gzip");
    assert.equal(gunzipSync(reply.body).toString(), body);
  });

  test("of several failures without any, the client hears of the last", async () => {
    upstream.next(hangUp, { hold: NEVER });
    const reply = await ask(hasty);
    assert.equal(reply.status, 504);
    expect.proxyError(reply, "timeout");
    retries(hasty, 1);
  });

  test("TIMEOUT is for all attempts together", async () => {
    const at = timed(error(503, { "retry-after": "1" }), error(503, { "retry-after": "1" }), GOOD);
    const reply = await ask(hasty);
    // Two waits of a second do not fit into TIMEOUT=2.
    handedOn(reply, error(503, { "retry-after": "1" }), 2);
    waited(at, 1000);
  });
});

describe("what may have an effect of its own", () => {
  const form = (size) => {
    const boundary = "----reprise-retries";
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/octet-stream\r\n\r\n`;
    return {
      path: "/proxy/files",
      headers: { ...KEY, "content-type": `multipart/form-data; boundary=${boundary}` },
      body: Buffer.concat([Buffer.from(head), randomBytes(size), Buffer.from(`\r\n--${boundary}--\r\n`)]),
    };
  };
  const json = (path, body) => ({ path, headers: { ...KEY, "content-type": "application/json" }, body: JSON.stringify(body) });
  const requests = {
    "an upload": form(300_000),
    "a batch": json("/proxy/batches", { input_file_id: "f", endpoint: "/v1/chat/completions", completion_window: "24h" }),
    "a run": json("/proxy/threads/t/runs", { assistant_id: "a" }),
    "an answer to an earlier one": json("/proxy/responses", { model: "m", input: "Hi", previous_response_id: "resp_1" }),
    "a response in the background": json("/proxy/responses", { model: "m", input: "Hi", background: true }),
    "a POST without a body": { path: "/proxy/batches/b/cancel", headers: KEY },
    PATCH: { ...json("/proxy/files/f", { a: 1 }), method: "PATCH" },
  };

  async function sentWhole(request) {
    for (const call of upstream.calls) {
      const body = Buffer.from(request.body ?? "");
      expect.sameBytes(await within(call.whole, "the body sent upstream"), body, "the body sent upstream");
      const { headers } = call;
      if (request.body !== undefined) assert.equal(headers["content-length"], String(body.length), JSON.stringify(headers));
    }
  }

  for (const [what, request] of Object.entries(requests)) {
    for (const [status, headers] of [[429, {}], [429, { "retry-after": "0" }], [503, { "retry-after": "0" }], [521, {}], [523, {}]]) {
      test(`${what} is repeated on ${status} ${JSON.stringify(headers)}, whole`, async () => {
        upstream.next(error(status, headers), error(status, headers), GOOD);
        good(await ask(proxy, request), 3);
        await sentWhole(request);
        retries(proxy, 2);
      });
    }

    for (const [status, headers] of [[500, {}], [500, { "retry-after": "0", "x-should-retry": "true" }], [503, {}], [503, { "retry-after-ms": "0" }], [502, {}], [504, {}], [529, {}], [520, {}], [408, {}], [409, {}]]) {
      test(`${what} is not repeated on ${status} ${JSON.stringify(headers)}`, async () => {
        const said = error(status, headers);
        upstream.next(said);
        handedOn(await ask(proxy, request), said, 1);
        await sentWhole(request);
      });
    }

    test(`${what} is not repeated when the connection breaks`, async () => {
      upstream.next(async (call, res) => {
        await call.whole;
        res.destroy();
      });
      const reply = await ask(proxy, request);
      assert.equal(reply.status, 502);
      expect.proxyError(reply, "upstream_unreachable");
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });
  }

  test("an upload that is refused before it is whole is sent whole again", async () => {
    const request = form(3_000_000);
    // As a server answers that has no time: at once. One that also hung up would be taken for one that broke.
    upstream.next((call, res) => void res.writeHead(429, { "retry-after": "0", "content-length": "0" }).end(), GOOD);
    good(await ask(proxy, request), 2);
    expect.sameBytes(await upstream.last.whole, request.body, "the body sent upstream");
  });

  test("an upload in chunks is sent once, whatever the answer", async () => {
    const request = form(50_000);
    const said = error(429, { "retry-after": "0" });
    upstream.next(said);
    handedOn(await ask(proxy, { ...request, body: [request.body.subarray(0, 30_000), request.body.subarray(30_000)] }), said, 1);
    expect.sameBytes(await upstream.last.whole, request.body, "the body sent upstream");
  });

  for (const [method, body] of [["GET"], ["HEAD"], ["DELETE"], ["OPTIONS"], ["PUT", "whole \u00fc"]]) {
    test(`${method} has none: it is repeated on whatever passes`, async () => {
      upstream.next(error(500), hangUp, { json: { id: "good" } });
      const reply = await ask(proxy, { method, path: "/proxy/files/f", headers: KEY, body });
      assert.equal(reply.status, 200);
      assert.equal(upstream.calls.length, 3);
      assert.deepEqual(upstream.calls.map((call) => call.method), [method, method, method]);
      for (const index of [0, 2]) assert.equal((await upstream.calls[index].whole).toString(), body ?? "");
    });
  }
});

// A request whose answer nobody waits for to the end. It leaves with a reset: the mere end of a connection might be that of
// a client which has nothing more to say and still listens, and workerd takes it for one.
function begin(instance, { method = "POST", path, headers, body }) {
  const { hostname, port } = new URL(instance.origin);
  const length = body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) };
  const req = http.request({ hostname, port, method, path, headers: { ...headers, ...length }, agent: false });
  req.on("error", () => {});
  req.end(body);
  return { leave: () => req.socket.resetAndDestroy() };
}

describe("a client that leaves", () => {
  const kept = { "its question": chat(), "its stream": chat({ stream: true }) };
  const unkept = {
    "a question that is not kept": chat({}, { "cache-control": "no-store" }),
    "a request past the cache": { method: "GET", path: "/proxy/models", headers: KEY },
  };

  for (const [what, request] of Object.entries(kept)) {
    test(`before the failure of ${what} comes: nothing is asked again`, async () => {
      const logged = proxy.lines.length + 1;
      let answer;
      upstream.next({ ...error(503, { "retry-after": "2" }), hold: new Promise((resolve) => (answer = resolve)) });
      const client = begin(proxy, request);
      await upstream.asked(1);
      client.leave();
      answer();
      await proxy.logged(logged);
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });

    test(`while ${what} waits to be asked again: it is not`, async () => {
      const logged = proxy.lines.length + 1;
      let leave;
      const client = begin(proxy, request);
      upstream.next((call, res) => {
        res.writeHead(503, { "retry-after": "2", "content-length": "0" }).end();
        res.once("finish", () => leave());
      });
      leave = () => client.leave();
      await proxy.logged(logged);
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
    });

    test(`and ${what}, answered well, is kept all the same`, async () => {
      const logged = proxy.lines.length + 1;
      let answer;
      const hold = new Promise((resolve) => (answer = resolve));
      upstream.next({ ...(request.body.includes('"stream":true') ? STREAM : GOOD), hold });
      const client = begin(proxy, request);
      await upstream.asked(1);
      client.leave();
      answer();
      await proxy.logged(logged);
      assert.equal(expect.cacheStatus(await ask(proxy, request)), "HIT");
      assert.equal(upstream.calls.length, 1);
    });
  }

  for (const [what, request] of Object.entries(unkept)) {
    test(`${what} leaves the upstream too, and nothing is asked again`, async () => {
      upstream.next({ hold: NEVER });
      const client = begin(proxy, request);
      await upstream.asked(1);
      client.leave();
      await within(upstream.last.left, "the upstream's connection to be given up");
      // Another question is the clock: when it has been asked three times, the first would have been asked a second time.
      upstream.next(error(500), error(500), GOOD);
      good(await ask(proxy, chat({ seed: 1 })), 4);
    });
  }

  test("a renewal behind the back of a client goes on without it", async () => {
    const renewing = await worker({ vars: { ...BASE, CACHE_TTL: "60", STALE_WHILE_REVALIDATE: "30" } });
    upstream.next({ json: { id: "old" } });
    await ask(renewing);
    await age(renewing, 70);
    let answer;
    upstream.next({ ...error(500), hold: new Promise((resolve) => (answer = resolve)) }, GOOD);
    const logged = renewing.lines.length + 1;
    const reply = await send(renewing.origin, chat());
    assert.equal(expect.cacheStatus(reply), "UPDATING");
    assert.equal(reply.body.toString(), '{"id":"old"}');
    answer();
    assert.equal((await renewing.logged(logged)).retries, 1);
    good(await ask(renewing), 3);
  });
});

describe("once the answer has begun", () => {
  for (const [what, request, said] of [
    ["a stream that breaks off", chat({ stream: true }), { ...STREAM, cut: 40 }],
    ["a stream that breaks off before its first byte", chat({ stream: true }), { ...STREAM, cut: 0 }],
    ["an object that breaks off", chat(), { headers: { "content-length": "13" }, ...GOOD, cut: 5 }],
    ["an object that breaks off before its first byte", chat(), { headers: { "content-length": "13" }, ...GOOD, cut: 0 }],
    ["a file that breaks off", { method: "GET", path: "/proxy/files/f/content", headers: KEY }, { body: "0123456789", cut: 5 }],
  ]) {
    test(`${what} is not asked for again`, async () => {
      upstream.next(said);
      const reply = await ask(proxy, request, { mayBreak: true });
      assert.equal(reply.status, 200);
      assert.equal(reply.whole, false, "the client takes half an answer for a whole one");
      expect.sameBytes(reply.body, Buffer.from(said.body ?? JSON.stringify(said.json)).subarray(0, said.cut), "what came");
      assert.equal(upstream.calls.length, 1);
      assert.equal(proxy.lines.at(-1).retries, undefined);
      assert.deepEqual(await proxy.entries(), []);
    });
  }

  test("a stream that carries an error is the upstream's answer", async () => {
    const body = 'data: {"error":{"message":"overloaded","code":503}}\n\n';
    upstream.next({ ...STREAM, body });
    const reply = await ask(proxy, chat({ stream: true }));
    assert.equal(reply.body.toString(), body);
    assert.equal(upstream.calls.length, 1);
  });

  test("a stream is repeated before it", async () => {
    upstream.next(error(529), hangUp, STREAM);
    const reply = await ask(proxy, chat({ stream: true }));
    assert.equal(reply.body.toString(), STREAM.body);
    assert.equal(upstream.calls.length, 3);
    assert.equal(expect.cacheStatus(await ask(proxy, chat({ stream: true }))), "HIT");
  });
});

describe("an entry past its lifetime stands in", async () => {
  const stale = await worker({ vars: { ...BASE, CACHE_TTL: "60", STALE_IF_ERROR: "30" } });
  beforeEach(async () => {
    await stale.clear();
    upstream.next({ json: { id: "old" } });
    await ask(stale);
    await age(stale, 70);
  });

  test("only when the last attempt has failed", async () => {
    upstream.next(error(503), error(503), error(503));
    const reply = await ask(stale);
    assert.deepEqual([reply.body.toString(), expect.cacheStatus(reply)], ['{"id":"old"}', "STALE"]);
    assert.equal(upstream.calls.length, 4);
    retries(stale, 2);
  });

  test("not where an attempt succeeds", async () => {
    upstream.next(error(503), hangUp, GOOD);
    const reply = await ask(stale);
    good(reply, 4);
    assert.equal(expect.cacheStatus(reply), "EXPIRED");
  });

  test("for an empty account at once", async () => {
    upstream.next({ status: 429, json: { error: { code: "insufficient_quota" } } });
    const reply = await ask(stale);
    assert.deepEqual([reply.body.toString(), expect.cacheStatus(reply)], ['{"id":"old"}', "STALE"]);
    assert.equal(upstream.calls.length, 2);
  });
});
