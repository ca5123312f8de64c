// The fast path: taken only by requests that are identical in everything that matters. Also its maps and its reads.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, beforeEach, describe, mock, test } from "node:test";
import { FastPath, LruMap } from "../../src/worker/fast_path.js";
import { MemoryCache } from "../../src/worker/store/memory.js";

const REQUEST_URL = "http://localhost/proxy/chat/completions?a=1";
const BODY = '{"messages":[{"content":"Hi"}]}';
const HEADERS = {
  "content-type": "application/json",
  authorization: "Bearer sk-1",
  accept: "*/*",
  "x-request-id": "1",
  "cf-ray": "abc",
};
const MAX_BODY_BYTES = 1_000;
const PREFIX_BYTES = 4;
const TIMEOUT_MS = 1_000;
const IGNORED_HEADERS = ["cf-*", "x-request-id", "!cf-aig-*"];
const KEY = "key";
const ENTRY = Buffer.from("entry");

const memoryWith = (value) => {
  const memory = new MemoryCache(1_000_000, 3_600_000);
  memory.put(KEY, value, Date.now());
  return memory;
};

/** @returns {any} What the fast path reads of a `Request`, and whether its body has been read. */
function request({ method = "POST", url = REQUEST_URL, headers = {}, body = BODY } = {}) {
  const bytes = Buffer.from(body);
  const all = { ...HEADERS, "content-length": `${bytes.length}`, ...headers };
  const present = Object.entries(all).filter(([, value]) => value !== null);
  const made = { method, url, headers: new Headers(present), read: false };
  made.arrayBuffer = async () => {
    made.read = true;
    return new Uint8Array(bytes).buffer;
  };
  return made;
}

const responseHead = (more) =>
  JSON.stringify({
    status: 200,
    headers: "x-plan\n1",
    body_start: 2,
    valid_until: Number.MAX_SAFE_INTEGER,
    log_line: ["<", ">"],
    ...more,
  });
/** @type {any} */
const plan = { responseHead: () => responseHead(), countHit: () => {} };

/**
 * A fast path that has seen the usual request, or another.
 *
 * @param {{ usual?: any, plan?: any, memory?: MemoryCache | null, kvBinding?: string }} [options]
 */
async function create({ usual = request(), plan: its = plan, memory = memoryWith(ENTRY), kvBinding } = {}) {
  const fastPath = new FastPath();
  fastPath.open(IGNORED_HEADERS, MAX_BODY_BYTES, PREFIX_BYTES, memory ?? undefined, kvBinding, TIMEOUT_MS);
  assert.equal(await fastPath.respond(usual, {}), undefined);
  assert.ok(!usual.read, "the body of a request with an unknown head was read");
  fastPath.rememberHead(fastPath.probe(usual));
  assert.equal(await fastPath.respond(usual, {}), undefined);
  fastPath.addPlan(fastPath.probe(usual), its, KEY);
  return fastPath;
}

const lines = [];
beforeEach(() => {
  lines.length = 0;
  mock.method(console, "log", (line) => lines.push(line));
});
after(() => mock.restoreAll());

describe("which requests take the fast path", () => {
  test("one that is the same, byte for byte", async () => {
    const fastPath = await create();
    const response = await fastPath.respond(request(), {});
    assert.equal(response.headers.get("x-plan"), "1");
    assert.equal(await response.text(), "try");
    assert.match(lines.join(), /^<\d+>$/);
  });

  test("one that differs in ignored headers only", async () => {
    const fastPath = await create();
    for (const headers of [{ "x-request-id": "2" }, { "cf-ray": null }, { "cf-new": "x" }]) {
      assert.ok(await fastPath.respond(request({ headers }), {}), JSON.stringify(headers));
    }
  });

  const changes = [
    { method: "PUT" },
    { url: REQUEST_URL.replace("http:", "https:") },
    { url: REQUEST_URL.replace("localhost", "other") },
    { url: REQUEST_URL.replace("proxy", "proxy/openai") },
    { url: `${REQUEST_URL}&b=2` },
    { url: REQUEST_URL.slice(0, -1) },
    ...Object.keys(HEADERS)
      .filter((name) => !["x-request-id", "cf-ray"].includes(name))
      .flatMap((name) => [{ headers: { [name]: null } }, { headers: { [name]: `${HEADERS[name]}x` } }]),
    ...[
      "cache-control",
      "x-proxy-ttl",
      "x-api-key",
      "origin",
      "content-encoding",
      "upgrade",
      "connection",
      "cf",
      "cf-aig-cache-ttl",
      "x-request-idx",
      "xcf-ray",
    ].map((name) => ({ headers: { [name]: "1" } })),
    // The slow path refuses values like these.
    { headers: { "x-request-id": "\x01" } },
    ...[...BODY].map((_, at) => ({ body: `${BODY.slice(0, at)}~${BODY.slice(at + 1)}` })),
    { body: `${BODY} ` },
    { body: BODY.slice(0, -1) },
    { body: `\n${BODY}`, headers: { "content-length": BODY.length } },
  ];
  for (const change of changes) {
    test(`not one with a change: ${JSON.stringify(change)}`, async () => {
      const fastPath = await create();
      assert.equal(await fastPath.respond(request(change), {}), undefined);
      assert.ok(await fastPath.respond(request(), {}), "the usual request does not take the fast path any more");
    });
  }

  test("not one whose headers are cut in other places", async () => {
    const fastPath = await create({ usual: request({ headers: { "x-a": "1", "x-b": "2" } }) });
    for (const headers of [{ "x-a": "12" }, { "x-a": "1x-b:2" }, { "x-ax": "1", "x-b": "2" }, { "x-a": "1, 2" }]) {
      assert.equal(await fastPath.respond(request({ headers }), {}), undefined, JSON.stringify(headers));
    }
  });

  test("not one with the same body and another head, although both are known", async () => {
    const fastPath = await create();
    const other = () => request({ headers: { authorization: "Bearer sk-2" } });
    const first = other();
    await fastPath.respond(first, {});
    fastPath.rememberHead(fastPath.probe(first));
    const second = other();
    assert.equal(await fastPath.respond(second, {}), undefined);
    assert.ok(second.read);
    fastPath.addPlan(fastPath.probe(second), { ...plan, responseHead: () => responseHead({ body_start: 0 }) }, KEY);
    assert.equal(await (await fastPath.respond(other(), {})).text(), "entry");
    assert.equal(await (await fastPath.respond(request(), {})).text(), "try");
  });

  const unread = {
    chunked: null,
    empty: "0",
    "too long": String(MAX_BODY_BYTES + 1),
    "no number": "1e2",
    "two numbers": "31, 31",
  };
  for (const [what, length] of Object.entries(unread)) {
    test(`not one whose body the slow path may not read: ${what}`, async () => {
      const fastPath = await create();
      const strange = request({ headers: { "content-length": length } });
      assert.equal(await fastPath.respond(strange, {}), undefined);
      assert.ok(!strange.read);
      assert.equal(fastPath.probe(strange), undefined);
    });
  }

  test("none before it is open", async () => {
    const fastPath = new FastPath();
    const first = request();
    assert.equal(await fastPath.respond(first, {}), undefined);
    assert.equal(fastPath.probe(first), undefined);
  });

  test("none that only the last instance has seen", async () => {
    const fastPath = await create();
    fastPath.open(IGNORED_HEADERS, MAX_BODY_BYTES, PREFIX_BYTES, memoryWith(ENTRY), undefined, TIMEOUT_MS);
    const first = request();
    assert.equal(await fastPath.respond(first, {}), undefined);
    assert.ok(!first.read);
    fastPath.rememberHead(fastPath.probe(first));
    assert.equal(await fastPath.respond(request(), {}), undefined, "a plan of the last instance was used");
  });

  test("none that was seen longest ago, when there are too many", async () => {
    const fastPath = await create();
    const other = (n) => request({ body: `{"n":${n}}`, headers: { authorization: null } });
    const unknown = other(0);
    await fastPath.respond(unknown, {});
    fastPath.rememberHead(fastPath.probe(unknown));
    for (let n = 0; n < 3_000; n += 1) {
      const seen = other(n);
      await fastPath.respond(seen, {});
      fastPath.addPlan(fastPath.probe(seen), plan, KEY);
    }
    assert.equal(await fastPath.respond(request(), {}), undefined);
    assert.ok(await fastPath.respond(other(2_999), {}));
  });
});

describe("what the slow path gets to know", () => {
  test("nothing of a body whose head is unknown", async () => {
    const fastPath = new FastPath();
    fastPath.open(IGNORED_HEADERS, MAX_BODY_BYTES, PREFIX_BYTES, undefined, undefined, TIMEOUT_MS);
    const first = request();
    const before = Date.now();
    await fastPath.respond(first, {});
    const probe = fastPath.probe(first);
    assert.deepEqual([probe.hasDigest, probe.bodyFailed, probe.body], [false, false, undefined]);
    assert.ok(probe.startedAt >= before && probe.startedAt <= Date.now());
    // Without a digest there is nothing to find the plan by.
    fastPath.addPlan(probe, plan, KEY);
    fastPath.rememberHead(probe);
    assert.equal(await fastPath.respond(request(), {}), undefined);
  });

  test("the body, if it has been read", async () => {
    const fastPath = await create();
    const other = request({ body: "other" });
    await fastPath.respond(other, {});
    const probe = fastPath.probe(other);
    assert.deepEqual([probe.hasDigest, Buffer.from(probe.body).toString()], [true, "other"]);
  });

  test("that the body was aborted", async () => {
    const fastPath = await create();
    const broken = request();
    broken.arrayBuffer = async () => {
      throw new Error("aborted");
    };
    assert.equal(await fastPath.respond(broken, {}), undefined);
    const { bodyFailed, hasDigest } = fastPath.probe(broken);
    assert.deepEqual([bodyFailed, hasDigest], [true, false]);
  });
});

describe("plans", () => {
  test("one that has no response leaves the request to the slow path, and the store is not read", async () => {
    let reads = 0;
    const readStore = async () => {
      reads += 1;
    };
    const fastPath = await create({ plan: { ...plan, responseHead: () => undefined, readStore } });
    assert.equal(await fastPath.respond(request(), {}), undefined);
    assert.equal(reads, 0, "the store was read although the memory has an entry");
  });

  test("one that throws is dropped and reported, and its request takes the slow path with its body", async (t) => {
    globalThis.reportError = t.mock.fn();
    t.after(() => delete globalThis.reportError);
    const thrown = new Error("ended");
    const ended = () => {
      throw thrown;
    };
    const fastPath = await create({ plan: { ...plan, responseHead: ended } });
    for (let n = 1; n <= 2; n += 1) {
      const goesOn = request();
      assert.equal(await fastPath.respond(goesOn, {}), undefined);
      assert.equal(Buffer.from(fastPath.probe(goesOn).body).toString(), BODY);
      assert.deepEqual(
        /** @type {any} */ (globalThis.reportError).mock.calls.map((call) => call.arguments),
        [[thrown]],
      );
    }
  });

  test("the instance is called before a plan is", async () => {
    const calls = [];
    const recorded = (...args) => {
      calls.push("responseHead");
      return plan.responseHead(...args);
    };
    const fastPath = await create({ plan: { ...plan, responseHead: recorded } });
    fastPath.ensureInstance = () => calls.push("ensureInstance");
    await fastPath.respond(request(), {});
    assert.deepEqual(calls, ["ensureInstance", "responseHead"]);
    calls.length = 0;
    const readStore = async () => {
      calls.push("readStore");
      return new Uint8Array(ENTRY);
    };
    const withoutMemory = await create({ memory: null, plan: { ...plan, responseHead: recorded, readStore } });
    withoutMemory.ensureInstance = () => calls.push("ensureInstance");
    await withoutMemory.respond(request(), {});
    assert.deepEqual(calls, ["ensureInstance", "readStore", "ensureInstance", "responseHead"]);
  });

  test("a response head is used again for the same entry while it is valid, and every hit is counted", async (t) => {
    t.mock.timers.enable({ apis: ["Date"], now: 1_000 });
    const memory = memoryWith(ENTRY);
    const [heads, hits] = [t.mock.fn(() => responseHead({ valid_until: 2_000 })), t.mock.fn()];
    const fastPath = await create({ memory, plan: { responseHead: heads, countHit: hits } });
    const built = async (now) => {
      t.mock.timers.setTime(now);
      assert.ok(await fastPath.respond(request(), {}));
      return heads.mock.callCount();
    };
    assert.deepEqual([await built(1_000), await built(1_999), await built(2_000), await built(2_001)], [1, 1, 2, 3]);
    // The clock has gone back, so the head may not be valid yet.
    heads.mock.mockImplementation(() => responseHead());
    assert.deepEqual([await built(3_000), await built(2_999), await built(3_000)], [4, 5, 5]);
    memory.put(KEY, ENTRY, 3_000);
    assert.equal(await built(3_000), 6, "the head of another entry was used");
    assert.equal(hits.mock.callCount(), 8);
    assert.deepEqual(heads.mock.calls.at(-1).arguments, [ENTRY, undefined, 3_000]);
  });

  test("a long response head is built anew for each hit", async (t) => {
    const heads = t.mock.fn(() => responseHead({ headers: `x-long\n${"x".repeat(10_000)}` }));
    const fastPath = await create({ plan: { ...plan, responseHead: heads } });
    for (let n = 1; n <= 2; n += 1) assert.ok(await fastPath.respond(request(), {}));
    assert.equal(heads.mock.callCount(), 2);
  });
});

describe("the store", () => {
  const digest = (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest());

  for (const [where, kvBinding] of [
    ["KV", "CACHE"],
    ["the plan", undefined],
  ]) {
    const reads = (value) => {
      const get = mock.fn(async () => value && new Uint8Array(value).buffer);
      const readStore = mock.fn(async () => value && new Uint8Array(value));
      return { env: { CACHE: { get } }, readStore, count: () => get.mock.callCount() + readStore.mock.callCount() };
    };

    test(`is read by ${where} if the memory has nothing, and what it returns is remembered`, async () => {
      const memory = new MemoryCache(1_000, 1_000);
      const { env, readStore, count } = reads(ENTRY);
      /** @type {import("node:test").Mock<any>} */
      const heads = mock.fn(() => responseHead());
      const fastPath = await create({ memory, kvBinding, plan: { ...plan, readStore, responseHead: heads } });
      const response = await fastPath.respond(request(), env);
      assert.equal(await response.text(), "try");
      const [value, sum] = heads.mock.calls[0].arguments;
      assert.deepEqual([Buffer.from(value), Buffer.from(sum)], [ENTRY, Buffer.from(digest("y"))]);
      assert.ok(await fastPath.respond(request(), env));
      assert.equal(count(), 1, "the entry was not remembered");
      assert.equal(heads.mock.calls[1].arguments[1], undefined, "a remembered entry was verified again");
    });

    test(`is read by ${where} each time without a memory, and the head is used again for the same bytes only`, async () => {
      /** @type {import("node:test").Mock<any>} */
      const heads = mock.fn(() => responseHead());
      const { env, readStore } = reads(ENTRY);
      const its = { ...plan, readStore, responseHead: heads };
      const fastPath = await create({ memory: null, kvBinding, plan: its });
      for (let n = 1; n <= 3; n += 1) assert.ok(await fastPath.respond(request(), env));
      assert.equal(heads.mock.callCount(), 1);
      for (const [at, changed] of ["entrY", "EntrY"].entries()) {
        const other = reads(Buffer.from(changed));
        its.readStore = other.readStore;
        assert.ok(await fastPath.respond(request(), other.env));
        assert.equal(heads.mock.callCount(), 2 + at, changed);
      }
    });

    test(`has nothing: the slow path is told what ${where} has returned`, async () => {
      const { env, readStore } = reads(undefined);
      const fastPath = await create({ memory: null, kvBinding, plan: { ...plan, readStore } });
      const missing = request();
      assert.equal(await fastPath.respond(missing, env), undefined);
      assert.deepEqual(fastPath.probe(missing).lookup, { key: KEY, value: undefined });
    });
  }

  test("an entry that the plan does not accept is passed on, and not remembered", async () => {
    const memory = new MemoryCache(1_000, 1_000);
    const readStore = async () => new Uint8Array(ENTRY);
    const fastPath = await create({ memory, plan: { responseHead: () => undefined, readStore } });
    const refused = request();
    assert.equal(await fastPath.respond(refused, {}), undefined);
    assert.deepEqual(fastPath.probe(refused).lookup, { key: KEY, value: new Uint8Array(ENTRY) });
    assert.equal(memory.get(KEY, Date.now()), undefined);
  });

  const never = () => new Promise(() => {});
  const failures = {
    "store-error": [() => Promise.reject(new Error("down")), undefined, { get: "no function" }],
    "store-timeout": [never],
  };
  for (const [reason, ways] of Object.entries(failures)) {
    for (const [at, way] of ways.entries()) {
      test(`cannot be read: ${reason} (${at + 1})`, async (t) => {
        t.mock.timers.enable({ apis: ["setTimeout"] });
        const binding = typeof way === "function" ? { get: way } : way;
        const fastPath = await create({ memory: null, kvBinding: "CACHE" });
        const failed = request();
        const response = fastPath.respond(failed, { CACHE: binding });
        for (let n = 1; n <= 5; n += 1) await new Promise((resolve) => setImmediate(resolve));
        while (fastPath.probe(failed) === undefined) {
          t.mock.timers.tick(TIMEOUT_MS);
          await new Promise((resolve) => setImmediate(resolve));
        }
        assert.equal(await response, undefined);
        assert.deepEqual(fastPath.probe(failed).lookup, { key: KEY, value: reason });
      });
    }
  }
});

describe("LruMap", () => {
  test("drops what was set or used longest ago", () => {
    const map = new LruMap(3);
    for (const key of ["a", "b", "c"]) map.set(key, key);
    assert.equal(map.use("a"), "a");
    map.set("d", "d");
    assert.deepEqual([...map.keys()], ["c", "a", "d"]);
    assert.equal(map.use("b"), undefined);
  });

  test("drops nothing when a value is replaced, and `get` does not count as use", () => {
    const map = new LruMap(2);
    map.set("a", 1).set("b", 2).set("b", 3);
    assert.equal(map.get("a"), 1);
    assert.deepEqual(
      [...map.entries()],
      [
        ["a", 1],
        ["b", 3],
      ],
    );
    map.set("c", 4);
    assert.deepEqual([...map.keys()], ["b", "c"]);
  });

  test("keeps a value that is false", () => {
    const map = new LruMap(2);
    map.set("a", false).set("b", true);
    assert.equal(map.use("a"), false);
    assert.deepEqual([...map.keys()], ["b", "a"]);
  });
});
