// Redis behind Upstash's REST API as the store: its commands, its contents, and its failures. The client gets
// the upstream's response in all of them.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, beforeEach, describe, test } from "node:test";
import { assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { decodeEntry, VERSION_AT } from "../../testkit/entry.mjs";
import { chatRequest, resultText } from "../../testkit/fixtures.mjs";
import { MAX_REQUEST_BYTES } from "../../testkit/redis.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { deferred, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
// If the store is meant to respond in time, a busy machine must not make it late.
const proxy = await worker({ vars: VARS, store: "upstash" });
const limited = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "upstash" });

beforeEach(async () => {
  upstream.reset();
  for (const instance of [proxy, limited]) {
    instance.redis.reset();
    await instance.clear();
  }
});

const ask = (proxy, headers = {}) => send(proxy.origin, chatRequest("Hi", { headers, model: "gpt-4o" }));

// The reply is the upstream's n-th response, complete, after so many calls to it.
function assertResponse(reply, n, calls = n) {
  assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
  assert.equal(reply.body.toString(), resultText(`answer-${n}`));
  assert.equal(upstream.calls.length, calls, "calls upstream");
}

function assertMiss(reply, proxy, reason) {
  assert.equal(xCacheStatusOf(reply), "MISS");
  assert.equal(detailOf(reply), reason);
  assert.equal(proxy.lines.at(-1).reason, reason, "the log's reason");
}

const commandOf = (call) => JSON.parse(call.body.toString());
const verbs = (proxy) => proxy.redis.calls.map((call) => commandOf(call)[0]);
// Replaces Redis's response to this command. Other commands pass.
const replaceResponse = (bridge, verb, respond) =>
  bridge.otherwise(async (call, response) => {
    await call.bodyReceived;
    if (commandOf(call)[0] === verb) return respond(call, response);
    const { status, json } = await bridge.respond(call);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
  });

describe("the commands", () => {
  test("a miss is a GET and a SET, a hit is a GET: one request each", async () => {
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    assert.deepEqual(verbs(proxy), ["GET", "SET"]);
    const hit = await proxy.settled(() => ask(proxy));
    assert.equal(xCacheStatusOf(hit), "HIT");
    assertResponse(hit, 1);
    assert.deepEqual(verbs(proxy), ["GET", "SET", "GET"]);
    const [read, write] = proxy.redis.calls.map(commandOf);
    assert.equal(read[1], write[1], "the key");
    for (const { method, url, headers } of proxy.redis.calls) {
      assert.deepEqual([method, url, headers.authorization], ["POST", "/", `Bearer ${proxy.redis.token}`]);
    }
  });

  test("a bypassing request does not touch the store", async () => {
    await proxy.settled(() => send(proxy.origin, { method: "GET", path: "/proxy/models" }));
    await proxy.settled(() => ask(proxy, { "cache-control": "no-store" }));
    assert.deepEqual(verbs(proxy), []);
  });

  test("a failed response is not written", async () => {
    upstream.next({ status: 500, json: { error: { message: "x" } } });
    await proxy.settled(() => ask(proxy));
    assert.deepEqual(verbs(proxy), ["GET"]);
    assert.deepEqual(await proxy.entries(), []);
  });
});

describe("the stored value", () => {
  const stored = async () => {
    const names = await proxy.redis.command("KEYS", "*");
    assert.equal(names.length, 1);
    return names[0];
  };

  test("the value is the entry in base64", async () => {
    await proxy.settled(() => ask(proxy));
    const value = (await proxy.redis.command("GET", await stored())).toString();
    const bytes = Buffer.from(value, "base64");
    assert.equal(bytes.toString("base64"), value);
    assert.equal(decodeEntry(bytes).body.toString(), resultText("answer-1"));
    assert.doesNotMatch(bytes.toString("latin1"), /sk-test/, "a credential is at rest");
  });

  test("Redis expires the value after X-Proxy-TTL", async () => {
    await proxy.settled(() => ask(proxy, { "x-proxy-ttl": "600" }));
    const ttl = await proxy.redis.command("TTL", await stored());
    // At least as long as the entry may be served, and never much longer.
    assert.ok(ttl > 500 && ttl <= 600, `${ttl}`);
  });

  test("without a lifetime the value does not expire", async () => {
    await proxy.settled(() => ask(proxy));
    assert.equal(await proxy.redis.command("TTL", await stored()), -1);
  });

  test("a response without a lifetime replaces one with a lifetime", async () => {
    await proxy.settled(() => ask(proxy, { "x-proxy-ttl": "600" }));
    await proxy.settled(() => ask(proxy, { "x-proxy-refresh": "true" }));
    assert.equal(await proxy.redis.command("TTL", await stored()), -1);
  });

  test("an expired value is a miss", async () => {
    await proxy.settled(() => ask(proxy, { "x-proxy-ttl": "600" }));
    await proxy.redis.command("PEXPIRE", await stored(), 0);
    const reply = await proxy.settled(() => ask(proxy));
    assertResponse(reply, 2);
    assertMiss(reply, proxy, null);
  });

  test("audio is stored and served byte for byte", async () => {
    const audio = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)), randomBytes(100_000)]);
    upstream.otherwise({ headers: { "content-type": "audio/mpeg" }, base64: audio.toString("base64") });
    const request = () =>
      proxy.settled(() =>
        send(proxy.origin, {
          path: "/proxy/audio/speech",
          headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
          body: JSON.stringify({ model: "tts-1", input: "Hi", voice: "alloy" }),
        }),
      );
    for (const status of ["MISS", "HIT"]) {
      const reply = await request();
      assert.equal(xCacheStatusOf(reply), status);
      assert.equal(reply.headers["content-type"], "audio/mpeg");
      assertSameBytes(reply.body, audio, `the audio of the ${status}`);
    }
  });

  const text = (length) => {
    const frame = resultText("").length;
    return resultText("x".repeat(length - frame));
  };
  // The most that base64 leaves of a request, less some room for the key and the entry's head.
  const fits = Math.floor(MAX_REQUEST_BYTES / 4) * 3 - 3000;

  test("a response is stored if its command is almost 10 MB", async () => {
    upstream.otherwise({ body: text(fits) });
    for (const status of ["MISS", "HIT"]) {
      const reply = await proxy.settled(() => ask(proxy));
      assert.equal(xCacheStatusOf(reply), status);
      assertSameBytes(reply.body, Buffer.from(text(fits)), "the response");
    }
    const [, write] = proxy.redis.calls;
    assert.ok(write.body.length > MAX_REQUEST_BYTES - 5000, `a smaller command than meant: ${write.body.length}`);
  });

  test("a larger response is forwarded complete, and the log says why it is not stored", async () => {
    upstream.otherwise({ body: text(fits + 3000) });
    for (const times of [1, 2]) {
      const reply = await proxy.settled(() => ask(proxy));
      assert.equal(xCacheStatusOf(reply), "MISS");
      assertSameBytes(reply.body, Buffer.from(text(fits + 3000)), "the response");
      assert.equal(proxy.lines.at(-1).reason, "too-large");
      assert.equal(upstream.calls.length, times);
    }
    assert.deepEqual(verbs(proxy), ["GET", "GET"]);
  });
});

describe("a failing store is a miss", () => {
  const json = { "content-type": "application/json" };
  const faults = {
    "refuses the token": { status: 401, json: { error: "Unauthorized" } },
    "has no quota left": {
      status: 400,
      json: { error: "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000." },
    },
    "limits the rate": { status: 429, json: { error: "ERR too many requests" } },
    "fails with 500": { status: 500, json: { error: "ERR internal" } },
    "fails with 500 and no body": { status: 500 },
    "reports an error with 200": { json: { error: "ERR internal" } },
    "is a web page": { headers: { "content-type": "text/html" }, body: "<!doctype html><title>Welcome</title>" },
    "is a gateway's web page": { status: 502, headers: { "content-type": "text/html" }, body: "<h1>Bad Gateway</h1>" },
    "sends an empty body": { body: "" },
    "sends garbage": { headers: json, base64: randomBytes(5000).toString("base64") },
    "sends half of an object": { headers: json, body: '{"result":"UlBSUw' },
    "sends a list": { json: [{ result: null }] },
    "sends a number": { json: { result: 7 } },
    "sends an object": { json: { result: { value: "" } } },
    "truncates its response": {
      headers: { ...json, "content-length": "1000" },
      body: `{"result":"${"A".repeat(900)}"}`,
      truncate: 500,
    },
    "closes the connection": (_call, response) => void response.destroy(),
    "does not speak HTTP": (_call, response) => void response.socket.end("-NOAUTH Authentication required.\r\n"),
    redirects: { status: 307, headers: { location: "https://example.invalid/" } },
  };
  for (const [name, fault] of Object.entries(faults)) {
    test(`the store ${name}`, async () => {
      assertResponse(await proxy.settled(() => ask(proxy)), 1);
      proxy.redis.otherwise(fault);
      const reply = await proxy.settled(() => ask(proxy));
      assertResponse(reply, 2);
      assertMiss(reply, proxy, "store-error");
      proxy.redis.reset();
      // Nothing could be written: the previous entry is still there.
      const again = await proxy.settled(() => ask(proxy));
      assert.equal(xCacheStatusOf(again), "HIT");
      assertResponse(again, 1, 2);
    });
  }

  test("the store refuses connections", async () => {
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    await proxy.redis.stopListening();
    const reply = await proxy.settled(() => ask(proxy));
    await proxy.redis.listen();
    assertResponse(reply, 2);
    assertMiss(reply, proxy, "store-error");
    assert.equal(xCacheStatusOf(await proxy.settled(() => ask(proxy))), "HIT");
  });

  const silences = {
    "does not respond": () => {},
    "stops after its head": (_call, response) => response.writeHead(200, json).flushHeaders(),
    "stops in its response": (_call, response) => response.writeHead(200, json).write('{"result":"UlBS'),
  };
  for (const [name, silence] of Object.entries(silences)) {
    test(`the store ${name}: after STORE_TIMEOUT_MS the upstream is called, and its response stored`, async () => {
      replaceResponse(limited.redis, "GET", silence);
      const reply = await limited.settled(() => ask(limited));
      assertResponse(reply, 1);
      assertMiss(reply, limited, "store-timeout");
      const { ms } = limited.lines.at(-1);
      assert.ok(ms >= 90 && ms < 20_000, `the response's head took ${ms} ms`);
      await withTimeout(limited.redis.calls[0].disconnected, "the silent connection to be closed");
      assert.deepEqual(verbs(limited), ["GET", "SET"]);
      assert.equal((await limited.entries()).length, 1);
    });
  }

  test("only-if-cached is 504 if the store cannot be read", async () => {
    proxy.redis.otherwise({ status: 500 });
    const reply = await proxy.settled(() => ask(proxy, { "cache-control": "only-if-cached" }));
    assert.equal(reply.status, 504);
    assertProxyError(reply, "only_if_cached");
    assert.equal(upstream.calls.length, 0);
  });
});

describe("a failed write does not affect the response", () => {
  /** @type {Record<string, any>} */
  const refusals = {
    "an error": { status: 400, json: { error: "ERR command is not allowed when used memory > 'maxmemory'" } },
    nothing: { json: { result: null } },
    "a web page": { headers: { "content-type": "text/html" }, body: "<h1>Hi</h1>" },
  };
  for (const [name, { status = 200, headers, ...described }] of Object.entries(refusals)) {
    test(`the log reports a write whose response is ${name}`, async () => {
      replaceResponse(proxy.redis, "SET", (_call, response) =>
        response.writeHead(status, headers).end(described.body ?? JSON.stringify(described.json)),
      );
      for (const n of [1, 2]) {
        assertResponse(await proxy.settled(() => ask(proxy)), n);
        assert.equal(proxy.lines.at(-1).reason, "store-error");
      }
      assert.deepEqual(await proxy.entries(), []);
    });
  }

  test("a write without a response is aborted", async () => {
    replaceResponse(proxy.redis, "SET", () => {});
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    assert.equal(proxy.lines.at(-1).reason, "store-timeout");
    await withTimeout(proxy.redis.calls[1].disconnected, "the silent connection to be closed");
  });

  test("the client has its whole response while the write still waits", async () => {
    const { promise: held, resolve: release } = deferred();
    replaceResponse(proxy.redis, "SET", async (call, response) => {
      await held;
      response.writeHead(200).end(JSON.stringify((await proxy.redis.respond(call)).json));
    });
    await proxy.settled(async () => {
      assertResponse(await ask(proxy), 1);
      await proxy.redis.received(2);
      assert.deepEqual(await proxy.entries(), []);
      release();
    });
    assert.equal((await proxy.entries()).length, 1);
  });
});

describe("an invalid value is a miss and is replaced", () => {
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
    "another program's, in plain text": () => '{"id":"answer-of-another-program"}',
    "of another version": edited((bytes) => void (bytes[VERSION_AT] += 1)),
    "cut off": edited((bytes) => bytes.subarray(0, -1)),
    "cut to its first bytes": edited((bytes) => bytes.subarray(0, 10)),
    "with a flipped bit": edited((bytes) => void (bytes[bytes.length - 2] ^= 1)),
    "with a byte too many": edited((bytes) => Buffer.concat([bytes, Buffer.from("x")])),
  };
  const replaced = async (reason) => {
    const reply = await proxy.settled(() => ask(proxy));
    assertResponse(reply, 2);
    assertMiss(reply, proxy, reason);
    const again = await proxy.settled(() => ask(proxy));
    assertResponse(again, 2);
    assert.equal(xCacheStatusOf(again), "HIT", "the value was not replaced");
  };
  for (const [name, damage] of Object.entries(damages)) {
    test(`the value is ${name}`, async () => {
      assertResponse(await proxy.settled(() => ask(proxy)), 1);
      const [key] = await proxy.redis.command("KEYS", "*");
      await proxy.redis.command("SET", key, damage((await proxy.redis.command("GET", key)).toString()));
      await replaced("entry-corrupt");
    });
  }

  test("the value is that of another key", async () => {
    await proxy.settled(() => ask(proxy, { "x-proxy-namespace": "another" }));
    const [other] = await proxy.redis.command("KEYS", "*");
    await proxy.settled(() => ask(proxy));
    const key = (await proxy.redis.command("KEYS", "*")).map(String).find((key) => key !== String(other));
    await proxy.redis.command("SET", key, await proxy.redis.command("GET", other));
    const reply = await proxy.settled(() => ask(proxy));
    assertResponse(reply, 3);
    assertMiss(reply, proxy, "entry-corrupt");
  });

  test("the value is not a string: the next response replaces it", async () => {
    assertResponse(await proxy.settled(() => ask(proxy)), 1);
    const [key] = await proxy.redis.command("KEYS", "*");
    await proxy.redis.command("DEL", key);
    await proxy.redis.command("RPUSH", key, "a");
    await replaced("store-error");
  });
});

test("the token is sent to Upstash only", async () => {
  const proxy = await worker({ vars: { ...VARS, DEBUG: "true" }, store: "upstash" });
  const { redis } = proxy;
  const replies = [];
  const exchange = async (request) => replies.push(await proxy.settled(request));
  await exchange(() => ask(proxy));
  await exchange(() => ask(proxy));
  await exchange(() => send(proxy.origin, { method: "GET", path: "/proxy/models" }));
  await exchange(() => send(proxy.origin, { method: "GET", path: "/nowhere" }));
  for (const status of [200, 400, 401, 500]) {
    // An error may repeat the token.
    redis.otherwise({ status, json: { error: `WRONGPASS ${redis.token}` } });
    await exchange(() => ask(proxy));
  }
  redis.otherwise((_call, response) => void response.destroy());
  await exchange(() => ask(proxy));
  await redis.stopListening();
  await exchange(() => ask(proxy));
  await redis.listen();

  assert.deepEqual(replies.map((reply) => xCacheStatusOf(reply)).slice(0, 3), ["MISS", "HIT", "BYPASS"]);
  assert.ok(
    redis.calls.length >= 10 && redis.calls.every(({ headers }) => headers.authorization === `Bearer ${redis.token}`),
  );
  assert.ok(redis.calls.every((call) => !call.url.includes(redis.token) && !call.body?.includes(redis.token)));
  const requests = upstream.calls.map(({ url, rawHeaders, body }) => [url, rawHeaders, body?.toString("latin1")]);
  const responses = replies.map(({ rawHeaders, body }) => [rawHeaders, body.toString("latin1")]);
  assert.equal(proxy.lines.length, replies.length, "one line per request");
  const everything = JSON.stringify([requests, responses]) + proxy.output;
  assert.ok(everything.includes("sk-test"), "the search finds nothing at all");
  for (const secret of [redis.token, encodeURIComponent(redis.token), Buffer.from(redis.token).toString("base64")]) {
    assert.ok(!everything.includes(secret), `the token is in: ${everything.split(secret)[0].slice(-300)}`);
  }
});

for (const [name, value] of [
  ["UPSTASH_REDIS_REST_URL", "geheim-url"],
  ["UPSTASH_REDIS_REST_TOKEN", "geheim token"],
]) {
  test(`an error names an invalid ${name} and does not repeat its value`, async () => {
    const proxy = await worker({ vars: { ...VARS, [name]: value } });
    const reply = await proxy.settled(() => ask(proxy));
    assert.equal(reply.status, 500);
    assertProxyError(reply, "misconfigured");
    assert.match(reply.body.toString(), new RegExp(name));
    assert.doesNotMatch(reply.body.toString() + JSON.stringify(reply.rawHeaders) + proxy.output, /geheim/);
  });
}
