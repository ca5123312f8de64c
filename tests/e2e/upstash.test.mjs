// Redis behind Upstash's REST API as the store: what is said to it, what is kept in it, and that whatever becomes of it
// the client has the upstream's answer.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, beforeEach, describe, test } from "node:test";
import { send } from "./support/client.mjs";
import { decode, VERSION_AT } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { MAX_REQUEST } from "./support/redis.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
// Where the store is meant to answer, a busy machine must not make it late.
const patient = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "20000" }, store: "upstash" });
const hasty = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "upstash" });

beforeEach(async () => {
  upstream.reset();
  for (const proxy of [patient, hasty]) {
    proxy.redis.reset();
    await proxy.clear();
  }
});

const NEVER = new Promise(() => {});
const ask = (proxy, more = {}) =>
  send(proxy.origin, {
    path: "/proxy/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...more },
    body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] }),
  });

// The n-th answer of the scripted upstream, in full, after so many calls to it.
function answered(reply, n, calls = n) {
  assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
  assert.equal(reply.body.toString(), `{"id":"answer-${n}"}`);
  assert.equal(upstream.calls.length, calls, "calls upstream");
}

function missed(reply, proxy, reason) {
  assert.equal(expect.cacheStatus(reply), "MISS");
  assert.equal(expect.detail(reply), reason);
  assert.equal(proxy.lines.at(-1).reason, reason, "the log's reason");
}

const command = (call) => JSON.parse(call.body.toString());
const verbs = (proxy) => proxy.redis.calls.map((call) => command(call)[0]);
// Something else than Redis's answer to this command; other commands pass.
const only = (bridge, verb, answer) =>
  bridge.otherwise(async (call, response) => {
    await call.whole;
    if (command(call)[0] === verb) return answer(call, response);
    const { status, json } = await bridge.serve(call);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
  });

describe("what is said", () => {
  test("a miss is a read and a write, a hit is a read: one request each", async () => {
    answered(await patient.settled(() => ask(patient)), 1);
    assert.deepEqual(verbs(patient), ["GET", "SET"]);
    const hit = await patient.settled(() => ask(patient));
    assert.equal(expect.cacheStatus(hit), "HIT");
    answered(hit, 1);
    assert.deepEqual(verbs(patient), ["GET", "SET", "GET"]);
    const [read, write] = patient.redis.calls.map(command);
    assert.equal(read[1], write[1], "the key");
    for (const { method, url, headers } of patient.redis.calls) {
      assert.deepEqual([method, url, headers.authorization], ["POST", "/", `Bearer ${patient.redis.token}`]);
    }
  });

  test("what the cache lets by is no business of the store's", async () => {
    await patient.settled(() => send(patient.origin, { method: "GET", path: "/proxy/models" }));
    await patient.settled(() => ask(patient, { "cache-control": "no-store" }));
    assert.deepEqual(verbs(patient), []);
  });

  test("a failed answer is not written", async () => {
    upstream.next({ status: 500, json: { error: { message: "x" } } });
    await patient.settled(() => ask(patient));
    assert.deepEqual(verbs(patient), ["GET"]);
    assert.deepEqual(await patient.entries(), []);
  });
});

describe("what is kept", () => {
  const stored = async () => {
    const names = await patient.redis.say("KEYS", "*");
    assert.equal(names.length, 1);
    return names[0];
  };

  test("the value is the entry in base64", async () => {
    await patient.settled(() => ask(patient));
    const value = (await patient.redis.say("GET", await stored())).toString();
    const bytes = Buffer.from(value, "base64");
    assert.equal(bytes.toString("base64"), value);
    assert.equal(decode(bytes).body.toString(), '{"id":"answer-1"}');
    assert.doesNotMatch(bytes.toString("latin1"), /sk-test/, "a credential is at rest");
  });

  test("Redis forgets it when X-Proxy-TTL is over", async () => {
    await patient.settled(() => ask(patient, { "x-proxy-ttl": "600" }));
    const ttl = await patient.redis.say("TTL", await stored());
    // At least as long as the entry may be used, and never much longer.
    assert.ok(ttl > 500 && ttl <= 600, `${ttl}`);
  });

  test("without a lifetime Redis keeps it", async () => {
    await patient.settled(() => ask(patient));
    assert.equal(await patient.redis.say("TTL", await stored()), -1);
  });

  test("an answer without a lifetime replaces one that had one", async () => {
    await patient.settled(() => ask(patient, { "x-proxy-ttl": "600" }));
    await patient.settled(() => ask(patient, { "x-proxy-refresh": "true" }));
    assert.equal(await patient.redis.say("TTL", await stored()), -1);
  });

  test("what Redis has forgotten is a miss", async () => {
    await patient.settled(() => ask(patient, { "x-proxy-ttl": "600" }));
    await patient.redis.say("PEXPIRE", await stored(), 0);
    const reply = await patient.settled(() => ask(patient));
    answered(reply, 2);
    missed(reply, patient, null);
  });

  test("sound comes back byte for byte", async () => {
    const sound = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)), randomBytes(100_000)]);
    upstream.otherwise({ headers: { "content-type": "audio/mpeg" }, base64: sound.toString("base64") });
    const speak = () =>
      patient.settled(() =>
        send(patient.origin, {
          path: "/proxy/audio/speech",
          headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
          body: JSON.stringify({ model: "tts-1", input: "Hi", voice: "alloy" }),
        }),
      );
    for (const status of ["MISS", "HIT"]) {
      const reply = await speak();
      assert.equal(expect.cacheStatus(reply), status);
      assert.equal(reply.headers["content-type"], "audio/mpeg");
      expect.sameBytes(reply.body, sound, `the sound of the ${status}`);
    }
  });

  const text = (length) => {
    const frame = '{"id":""}'.length;
    return `{"id":"${"x".repeat(length - frame)}"}`;
  };
  // The most that base64 leaves of a request, less some room for the key and the entry's head.
  const fits = Math.floor(MAX_REQUEST / 4) * 3 - 3000;

  test("an answer of almost 10 MB as a command is stored", async () => {
    upstream.otherwise({ body: text(fits) });
    for (const status of ["MISS", "HIT"]) {
      const reply = await patient.settled(() => ask(patient));
      assert.equal(expect.cacheStatus(reply), status);
      expect.sameBytes(reply.body, Buffer.from(text(fits)), "the answer");
    }
    const [, write] = patient.redis.calls;
    assert.ok(write.body.length > MAX_REQUEST - 5000, `a smaller command than meant: ${write.body.length}`);
  });

  test("one beyond is passed whole, and the log says why it is not stored", async () => {
    upstream.otherwise({ body: text(fits + 3000) });
    for (const times of [1, 2]) {
      const reply = await patient.settled(() => ask(patient));
      assert.equal(expect.cacheStatus(reply), "MISS");
      expect.sameBytes(reply.body, Buffer.from(text(fits + 3000)), "the answer");
      assert.equal(patient.lines.at(-1).reason, "too-large");
      assert.equal(upstream.calls.length, times);
    }
    assert.deepEqual(verbs(patient), ["GET", "GET"]);
  });
});

describe("a store that fails is a miss", () => {
  const json = { "content-type": "application/json" };
  const faults = {
    "refuses the token": { status: 401, json: { error: "Unauthorized" } },
    "has no quota left": { status: 400, json: { error: "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000." } },
    "asks to slow down": { status: 429, json: { error: "ERR too many requests" } },
    "fails with 500": { status: 500, json: { error: "ERR internal" } },
    "fails with 500 and nothing": { status: 500 },
    "fails with 200": { json: { error: "ERR internal" } },
    "is a web page": { headers: { "content-type": "text/html" }, body: "<!doctype html><title>Welcome</title>" },
    "is a gateway's web page": { status: 502, headers: { "content-type": "text/html" }, body: "<h1>Bad Gateway</h1>" },
    "says nothing": { body: "" },
    "says garbage": { headers: json, base64: randomBytes(5000).toString("base64") },
    "says half of an object": { headers: json, body: '{"result":"UlBSUw' },
    "says a list": { json: [{ result: null }] },
    "says a number": { json: { result: 7 } },
    "says an object": { json: { result: { value: "" } } },
    "breaks off": { headers: { ...json, "content-length": "1000" }, body: `{"result":"${"A".repeat(900)}"}`, cut: 500 },
    "hangs up": (call, response) => void response.destroy(),
    "speaks no HTTP": (call, response) => void response.socket.end("-NOAUTH Authentication required.\r\n"),
    "sends elsewhere": { status: 307, headers: { location: "https://example.invalid/" } },
  };
  for (const [name, fault] of Object.entries(faults)) {
    test(name, async () => {
      answered(await patient.settled(() => ask(patient)), 1);
      patient.redis.otherwise(fault);
      const reply = await patient.settled(() => ask(patient));
      answered(reply, 2);
      missed(reply, patient, "store-error");
      patient.redis.reset();
      // Nothing could be written: what was there before still is.
      const again = await patient.settled(() => ask(patient));
      assert.equal(expect.cacheStatus(again), "HIT");
      answered(again, 1, 2);
    });
  }

  test("refuses connections", async () => {
    answered(await patient.settled(() => ask(patient)), 1);
    await patient.redis.refuse();
    const reply = await patient.settled(() => ask(patient));
    await patient.redis.listen();
    answered(reply, 2);
    missed(reply, patient, "store-error");
    assert.equal(expect.cacheStatus(await patient.settled(() => ask(patient))), "HIT");
  });

  const silences = {
    "does not answer": () => {},
    "stops after its head": (call, response) => response.writeHead(200, json).flushHeaders(),
    "stops in its answer": (call, response) => response.writeHead(200, json).write('{"result":"UlBS'),
  };
  for (const [name, silence] of Object.entries(silences)) {
    test(`${name}: after STORE_TIMEOUT_MS the upstream is asked, and its answer stored`, async () => {
      only(hasty.redis, "GET", silence);
      const reply = await hasty.settled(() => ask(hasty));
      answered(reply, 1);
      missed(reply, hasty, "store-timeout");
      const { ms } = hasty.lines.at(-1);
      assert.ok(ms >= 90 && ms < 5000, `the answer's head took ${ms} ms`);
      await within(hasty.redis.calls[0].left, "the silent connection to be given up");
      assert.deepEqual(verbs(hasty), ["GET", "SET"]);
      assert.equal((await hasty.entries()).length, 1);
    });
  }

  test("only-if-cached is 504 while the store cannot tell", async () => {
    patient.redis.otherwise({ status: 500 });
    const reply = await patient.settled(() => ask(patient, { "cache-control": "only-if-cached" }));
    assert.equal(reply.status, 504);
    expect.proxyError(reply, "only_if_cached");
    assert.equal(upstream.calls.length, 0);
  });
});

describe("a write that fails is nobody's loss", () => {
  const refusals = {
    "an error": { status: 400, json: { error: "ERR command is not allowed when used memory > 'maxmemory'" } },
    "nothing": { json: { result: null } },
    "a web page": { headers: { "content-type": "text/html" }, body: "<h1>Hi</h1>" },
  };
  for (const [name, { status = 200, headers, ...said }] of Object.entries(refusals)) {
    test(`${name}: the log says so`, async () => {
      only(patient.redis, "SET", (call, response) =>
        response.writeHead(status, headers).end(said.body ?? JSON.stringify(said.json)),
      );
      for (const n of [1, 2]) {
        answered(await patient.settled(() => ask(patient)), n);
        assert.equal(patient.lines.at(-1).reason, "store-error");
      }
      assert.deepEqual(await patient.entries(), []);
    });
  }

  test("one that is never answered is given up", async () => {
    only(patient.redis, "SET", () => {});
    answered(await patient.settled(() => ask(patient)), 1);
    assert.equal(patient.lines.at(-1).reason, "store-timeout");
    await within(patient.redis.calls[1].left, "the silent connection to be given up");
  });

  test("the client has its whole answer while the write still waits", async () => {
    let release;
    const held = new Promise((resolve) => (release = resolve));
    only(patient.redis, "SET", async (call, response) => {
      await held;
      response.writeHead(200).end(JSON.stringify((await patient.redis.serve(call)).json));
    });
    await patient.settled(async () => {
      answered(await ask(patient), 1);
      await patient.redis.asked(2);
      assert.deepEqual(await patient.entries(), []);
      release();
    });
    assert.equal((await patient.entries()).length, 1);
  });
});

describe("what is no entry is a miss, and is replaced", () => {
  const edited = (edit) => (value) => {
    const bytes = Buffer.from(value, "base64");
    return (edit(bytes) ?? bytes).toString("base64");
  };
  const damages = {
    empty: () => "",
    "not base64": () => "this is not base64!",
    "not text": () => Buffer.from([0xff, 0xfe, 0x00, 0x80]),
    "base64 with a character in between": (value) => `${value.slice(0, 40)}*${value.slice(40)}`,
    "base64 without its end": (value) => value.slice(0, -3),
    "another program's": () => Buffer.from('{"id":"answer-of-another-program"}').toString("base64"),
    "another program's, plain": () => '{"id":"answer-of-another-program"}',
    "of another version": edited((bytes) => void (bytes[VERSION_AT] += 1)),
    "cut off": edited((bytes) => bytes.subarray(0, -1)),
    "cut to its first bytes": edited((bytes) => bytes.subarray(0, 10)),
    "with a flipped bit": edited((bytes) => void (bytes[bytes.length - 2] ^= 1)),
    "with a byte too many": edited((bytes) => Buffer.concat([bytes, Buffer.from("x")])),
  };
  const replaced = async (reason) => {
    const reply = await patient.settled(() => ask(patient));
    answered(reply, 2);
    missed(reply, patient, reason);
    const again = await patient.settled(() => ask(patient));
    answered(again, 2);
    assert.equal(expect.cacheStatus(again), "HIT", "it was not replaced");
  };
  for (const [name, damage] of Object.entries(damages)) {
    test(name, async () => {
      answered(await patient.settled(() => ask(patient)), 1);
      const [key] = await patient.redis.say("KEYS", "*");
      await patient.redis.say("SET", key, damage((await patient.redis.say("GET", key)).toString()));
      await replaced("entry-corrupt");
    });
  }

  test("not even a string: Redis says so, and the next answer is stored in its place", async () => {
    answered(await patient.settled(() => ask(patient)), 1);
    const [key] = await patient.redis.say("KEYS", "*");
    await patient.redis.say("DEL", key);
    await patient.redis.say("RPUSH", key, "a");
    await replaced("store-error");
  });
});

test("the token is said to Upstash and nobody else", async () => {
  const proxy = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "20000", DEBUG: "true" }, store: "upstash" });
  const { redis } = proxy;
  const replies = [];
  const exchange = async (request) => replies.push(await proxy.settled(request));
  await exchange(() => ask(proxy));
  await exchange(() => ask(proxy));
  await exchange(() => send(proxy.origin, { method: "GET", path: "/proxy/models" }));
  await exchange(() => send(proxy.origin, { method: "GET", path: "/nowhere" }));
  for (const status of [200, 400, 401, 500]) {
    // An error may well repeat what it complains about.
    redis.otherwise({ status, json: { error: `WRONGPASS ${redis.token}` } });
    await exchange(() => ask(proxy));
  }
  redis.otherwise((call, response) => void response.destroy());
  await exchange(() => ask(proxy));
  await redis.refuse();
  await exchange(() => ask(proxy));
  await redis.listen();

  assert.deepEqual(
    replies.map((reply) => expect.cacheStatus(reply)).slice(0, 3),
    ["MISS", "HIT", "BYPASS"],
  );
  assert.ok(redis.calls.length >= 10 && redis.calls.every(({ headers }) => headers.authorization === `Bearer ${redis.token}`));
  assert.ok(redis.calls.every((call) => !call.url.includes(redis.token) && !call.body?.includes(redis.token)));
  const heard = upstream.calls.map(({ url, rawHeaders, body }) => [url, rawHeaders, body?.toString("latin1")]);
  const said = replies.map(({ rawHeaders, body }) => [rawHeaders, body.toString("latin1")]);
  assert.equal(proxy.lines.length, replies.length, "one line per request");
  const everything = JSON.stringify([heard, said]) + proxy.output;
  assert.ok(everything.includes("sk-test"), "the search finds nothing at all");
  for (const secret of [redis.token, encodeURIComponent(redis.token), Buffer.from(redis.token).toString("base64")]) {
    assert.ok(!everything.includes(secret), `the token is in: ${everything.split(secret)[0].slice(-300)}`);
  }
});

for (const [name, value] of [
  ["UPSTASH_REDIS_REST_URL", "geheim-url"],
  ["UPSTASH_REDIS_REST_TOKEN", "geheim token"],
]) {
  test(`a ${name} that cannot be read is named and not repeated`, async () => {
    const proxy = await worker({ vars: { ...VARS, [name]: value } });
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 500);
    expect.proxyError(reply, "misconfigured");
    assert.match(reply.body.toString(), new RegExp(name));
    assert.doesNotMatch(reply.body.toString() + JSON.stringify(reply.rawHeaders) + proxy.output, /geheim/);
  });
}
