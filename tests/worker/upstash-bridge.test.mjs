// The bridge to Redis that replaces Upstash in these tests. It is checked with Upstash's own client and, where the client would
// hide something, on the wire.

import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { Redis } from "@upstash/redis";
import { send } from "../../testkit/client.mjs";
import { MAX_REQUEST_BYTES, startRedis } from "../../testkit/redis.mjs";

const bridge = await startRedis();
after(() => bridge.close());
beforeEach(async () => {
  bridge.reset();
  await bridge.command("FLUSHALL");
});

const BINARY = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
const PLAIN = { enableTelemetry: false, enableAutoPipelining: false, retry: false };
const client = (options) => new Redis({ url: bridge.origin, token: bridge.token, ...PLAIN, ...options });

describe("Upstash's own client", () => {
  for (const responseEncoding of ["base64", false]) {
    describe(`with responseEncoding ${responseEncoding}`, () => {
      const redis = client({ responseEncoding });

      test("strings, numbers, lists and null are returned unchanged", async () => {
        assert.equal(await redis.ping(), "PONG");
        assert.equal(await redis.set("text", "käse 🧀 \u0000"), "OK");
        assert.equal(await redis.get("text"), "käse 🧀 \u0000");
        assert.equal(await redis.set("ok", "OK"), "OK");
        assert.equal(await redis.get("ok"), "OK");
        assert.equal(await redis.set("empty", ""), "OK");
        assert.equal(await redis.get("empty"), "");
        assert.equal(await redis.get("nothing"), null);
        assert.equal(await redis.incrby("count", 41), 41);
        assert.equal(await redis.rpush("list", "a", "ä", "OK"), 3);
        assert.deepEqual(await redis.lrange("list", 0, -1), ["a", "ä", "OK"]);
        assert.deepEqual(await redis.mget("text", "nothing"), ["käse 🧀 \u0000", null]);
        assert.deepEqual(await redis.scan(0, { match: "li*", count: 1000 }), ["0", ["list"]]);
      });

      test("an expiry is Redis's own", async () => {
        await redis.set("brief", "x", { ex: 100 });
        const ttl = await redis.ttl("brief");
        assert.ok(ttl > 0 && ttl <= 100, `${ttl}`);
        await redis.set("brief", "x");
        assert.equal(await redis.ttl("brief"), -1);
      });

      test("an error of Redis's is an error", async () => {
        await redis.rpush("list", "a");
        await assert.rejects(redis.get("list"), /WRONGTYPE/);
        await assert.rejects(redis.set("k", "v", { ex: -1 }), /ERR invalid expire time/);
      });

      test("a pipeline returns its results in order", async () => {
        const pipeline = redis.pipeline().set("k", "v").incr("k").get("k").get("nothing");
        const results = await pipeline.exec({ keepErrors: true });
        assert.deepEqual(
          results.map(({ result }) => result),
          ["OK", undefined, "v", null],
        );
        assert.match(results[1].error, /^ERR value is not an integer/);
        assert.deepEqual(
          bridge.calls.map(({ url }) => url),
          ["/pipeline"],
        );
      });

      test("a wrong token is refused", async () => {
        await assert.rejects(client({ responseEncoding, token: "x" }).get("k"), /Unauthorized/);
      });
    });
  }

  test("a value of megabytes is returned unchanged", async () => {
    const value = BINARY.toString("base64").repeat(20_000);
    await client().set("large", value);
    assert.ok((await client().get("large")) === value);
    assert.equal((await bridge.command("GET", "large")).length, value.length);
  });
});

describe("on the wire", () => {
  /** @type {(body: any, options?: Record<string, any>) => Promise<any[]>} */
  const post = async (body, { path = "/", method = "POST", ...headers } = {}) => {
    const sent = { authorization: `Bearer ${bridge.token}`, ...headers };
    const { status, body: text } = await send(bridge.origin, { method, path, headers: sent, body });
    return [status, text.toString()];
  };

  test("results are JSON objects, errors have the status 400", async () => {
    assert.deepEqual(await post('["SET","k","v","EX",100]'), [200, '{"result":"OK"}']);
    assert.deepEqual(await post('["GET","k"]'), [200, '{"result":"v"}']);
    assert.deepEqual(await post('["GET","nothing"]'), [200, '{"result":null}']);
    assert.deepEqual(await post('["DEL","k"]'), [200, '{"result":1}']);
    assert.deepEqual(await post('["GET"]'), [400, `{"error":"ERR wrong number of arguments for 'get' command"}`]);
    assert.deepEqual(await post('[["SET","k","v"],["GET"]]', { path: "/pipeline" }), [
      200,
      `[{"result":"OK"},{"error":"ERR wrong number of arguments for 'get' command"}]`,
    ]);
    for (const broken of ["", "GET k", "{}", "[]", '[["GET"]]', '["GET",null]', '["GET","k"']) {
      const [status, text] = await post(broken);
      assert.deepEqual([status, Object.keys(JSON.parse(text))], [400, ["error"]], broken);
      assert.match(JSON.parse(text).error, /^ERR /);
    }
    assert.equal((await post('{"k":1}', { path: "/pipeline" }))[0], 400);
  });

  test("strings are base64 on request, except OK", async () => {
    const encoding = { "upstash-encoding": "base64" };
    assert.deepEqual(await post('["SET","k","bar"]', encoding), [200, '{"result":"OK"}']);
    assert.deepEqual(await post('["GET","k"]', encoding), [200, '{"result":"YmFy"}']);
    assert.deepEqual(await post('["MGET","k","nothing"]', encoding), [200, '{"result":["YmFy",null]}']);
  });

  test("bytes that are not UTF-8 are replaced in text and complete in base64", async () => {
    await bridge.command("SET", "binary", BINARY);
    const [, plain] = await post('["GET","binary"]');
    assert.equal(JSON.parse(plain).result, BINARY.toString());
    assert.ok(JSON.parse(plain).result.endsWith("\ufffd"));
    const [, encoded] = await post('["GET","binary"]', { "upstash-encoding": "base64" });
    assert.equal(JSON.parse(encoded).result, BINARY.toString("base64"));
    assert.deepEqual(await bridge.command("GET", "binary"), BINARY);
  });

  test("the token may be in a header or in the query", async () => {
    const unauthorized = [401, '{"error":"Unauthorized"}'];
    assert.deepEqual(await post('["PING"]', { authorization: null }), unauthorized);
    assert.deepEqual(await post('["PING"]', { authorization: "Bearer x" }), unauthorized);
    assert.deepEqual(await post('["PING"]', { authorization: null, path: "/?_token=x" }), unauthorized);
    const path = `/?_token=${encodeURIComponent(bridge.token)}`;
    assert.deepEqual(await post('["PING"]', { authorization: null, path }), [200, '{"result":"PONG"}']);
  });

  test("other methods are a 405", async () => {
    for (const method of ["DELETE", "PATCH", "OPTIONS"]) assert.equal((await post("", { method }))[0], 405, method);
  });

  test("a request of 10 MB is accepted, one byte more is not", async () => {
    const frame = '["SET","k",""]'.length;
    const command = (length) => `["SET","k","${"x".repeat(length - frame)}"]`;
    assert.deepEqual(await post(command(MAX_REQUEST_BYTES)), [200, '{"result":"OK"}']);
    assert.deepEqual(await post(command(MAX_REQUEST_BYTES + 1)), [400, '{"error":"ERR max request size exceeded"}']);
    assert.equal(await bridge.command("STRLEN", "k"), MAX_REQUEST_BYTES - frame);
  });
});
