// The engine passes a good cache and fails faulty ones. The cases are valid and complete.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePort, temporaryFolder } from "../../testkit/processes.mjs";
import { apiAt } from "../engine/api-fixtures.mjs";
import { expand, loadCases, REPRISE_ONLY } from "../engine/cases.mjs";
import { withSet } from "../engine/json-path.mjs";
import { events, parseResponse } from "../engine/parse-response.mjs";
import { ScriptedUpstream } from "../engine/upstream.mjs";
import { conform } from "../run.mjs";
import { committed, extract, members } from "../sdk.mjs";
import { FAULTY, startCache } from "./fakes.mjs";

const cases = loadCases();

describe("the cases", () => {
  test("there are many", () => {
    assert.ok(cases.length >= 150);
    assert.ok(cases.filter(({ profile, kind }) => !profile && kind === "must").length >= 150);
  });

  test("those for Reprise alone are valid, too", () => {
    const own = loadCases(REPRISE_ONLY);
    assert.ok(own.length >= 671);
    assert.ok(own.every(({ profile }) => profile === "reprise"));
  });

  test("an invalid file is refused", () => {
    const good = { id: "a", name: "a", kind: "must", basis: "b", topic: "key", steps: [{ expect: { cache: "hit" } }] };
    const file = (...all) => ({ defaults: {}, cases: all });
    assert.equal(expand(file(good)).length, 1);
    const wrong = [
      { id: "A b" },
      { kind: "may" },
      { topic: "else" },
      { steps: [] },
      { steps: [{ expect: { cache: "luck" } }] },
      { colour: "red" },
      { steps: [{ request: { api: "none" } }] },
      { steps: [{ request: { json: {}, body: "" } }] },
      { steps: [{ request: { path: "/v1/chat/completions", api: "chat" } }] },
      { steps: [{ response: { haste: 1 } }] },
      { steps: [{ advance: 1, expect: { calls: 1 } }] },
      { steps: [{ expect: { body: "request" } }] },
      { only: "host" },
      { name: undefined },
      { kind: undefined },
    ];
    for (const change of wrong)
      assert.throws(() => expand(JSON.parse(JSON.stringify(file({ ...good, ...change })))), JSON.stringify(change));
    assert.throws(() => expand({ defaults: {}, more: [good] }));
    assert.throws(() => expand([good]));
  });

  test("a parameter becomes a case", () => {
    const [one] = expand({
      defaults: { kind: "must", basis: "b", topic: "key" },
      parameters: { chat: { top_p: [0.5, 1], stream: "elsewhere" } },
    });
    assert.equal(one.id, "key-chat-top-p");
    assert.deepEqual(
      one.steps.map(({ expect }) => expect.cache),
      ["stored", "separate", "separate", "either"],
    );
  });
});

describe("the parameters of the official clients", () => {
  test("the committed list is that of the installed clients", () => {
    assert.deepEqual(committed(), extract(), "after an update: node conformance/sdk.mjs, then cases for what is new");
  });

  test("each has a case or names the case that covers it", () => {
    const { parameters } = JSON.parse(readFileSync(new URL("../cases/parameters.json", import.meta.url), "utf8"));
    const ids = new Set(cases.map(({ id }) => id));
    for (const [api, names] of Object.entries(committed().parameters)) {
      for (const name of names) {
        const entry = parameters[api][name];
        assert.ok(entry !== undefined, `${api}: \`${name}\` has no case`);
        if (typeof entry === "string")
          assert.ok(ids.has(entry), `${api}: \`${name}\` is covered by ${entry}, which does not exist`);
      }
    }
  });

  test("members are read from types", () => {
    const source = `interface Other { z: 1; }\nexport interface A extends B { /** x: no; */ a: string; "b"?: { c: 1; d: 2 }; e?: (f: X) => Y; g: Array<{ h: 1; }>; }`;
    assert.deepEqual(members(source, "A"), ["a", "b", "e", "g"]);
    assert.throws(() => members(source, "C"));
  });
});

describe("the parts", () => {
  test("an API is recognized by the end of the path", () => {
    assert.equal(apiAt("/v1/chat/completions?x=1"), "chat");
    assert.equal(apiAt("/v1/completions"), "completions");
    assert.equal(apiAt("/v1/messages/count_tokens"), "count-tokens");
    assert.equal(apiAt("/v1/files/f1"), "files");
  });

  test("members are set by their path", () => {
    assert.deepEqual(withSet({ a: [{ b: 1 }] }, { "a.0.b": 2, "c.0.d": 3 }), { a: [{ b: 2 }], c: [{ d: 3 }] });
  });

  test("streams are parsed as clients parse them", () => {
    assert.deepEqual(events("event: a\r\ndata: 1\r\ndata: 2\r\n\r\n: comment\r\n\r\ndata: [DONE]\r\n\r\n"), [
      "1\n2",
      "[DONE]",
    ]);
    const headers = { "content-type": "text/event-stream" };
    const body = Buffer.from('data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],"usage":{}}\n\n');
    assert.deepEqual(parseResponse({ headers, body }), { text: "a", ended: false, usage: true });
  });
});

describe("the command", () => {
  const run = (...args) =>
    promisify(execFile)(process.execPath, [fileURLToPath(new URL("../run.mjs", import.meta.url)), ...args]).then(
      ({ stdout }) => ({ code: 0, stdout }),
      ({ code, stdout }) => ({ code, stdout }),
    );

  test("runs against any target, and its exit code reports failures", async () => {
    const port = await freePort();
    const cache = await startCache({ origin: `http://127.0.0.1:${port}` });
    const { folder, remove } = temporaryFolder();
    const file = path.join(folder, "results.json");
    const target = ["--target", cache.target, "--upstream-port", String(port), "--hit-timeout", "500"];
    try {
      const good = await run(...target, "--only", "cache-chat,key-chat-seed", "--json", file);
      assert.equal(good.code, 0, good.stdout);
      assert.match(good.stdout, /2 cases \(generic\)/);
      const { cases, totals } = JSON.parse(readFileSync(file, "utf8"));
      assert.deepEqual(
        cases.map(({ outcome }) => outcome),
        ["pass", "pass"],
      );
      assert.equal(totals.must.pass + totals.should.pass, 2);
      const bad = await run(...target, "--only", "spell-key-order");
      assert.equal(bad.code, 1);
      assert.match(bad.stdout, /spell-key-order/);
      assert.equal((await run(...target, "--only", "tenant-namespace")).code, 0);
      assert.equal(
        (await run(...target, "--only", "tenant-namespace", "--strict")).code,
        1,
        "a case without a decision counts",
      );
    } finally {
      cache.stop();
      remove();
    }
  });

  test("prints its usage", async () => {
    assert.equal((await run("--help")).code, 0);
    assert.equal((await run("--target", "http://127.0.0.1:1")).code, 2);
    assert.match((await run("--list", "--profile", "generic")).stdout, /must {3}key {9}key-chat-seed/);
  });
});

describe("the runner", () => {
  let upstream;
  before(async () => {
    upstream = await ScriptedUpstream.start();
  });
  after(() => upstream.close());

  async function run(faults, only, of = cases) {
    const cache = await startCache(upstream, faults);
    try {
      return await conform({ target: cache.target, upstream, cases: of, only, hitTimeoutMs: 300, concurrency: 24 });
    } finally {
      cache.stop();
    }
  }

  test("a good cache fails no `must`", async () => {
    const results = await run();
    assert.deepEqual(
      results
        .filter(({ kind, outcome }) => kind === "must" && outcome === "fail")
        .map(({ id, why }) => `${id}: ${why}`),
      [],
    );
    assert.ok(results.filter(({ kind, outcome }) => kind === "must" && outcome === "pass").length > 200);
    const failing = results.filter(({ outcome }) => outcome === "fail").map(({ id }) => id);
    for (const id of ["spell-key-order", "cross-chat-stream-then-plain"])
      assert.ok(failing.includes(id), `${id} is too hard for this cache`);
  });

  for (const [name, [faults, ids]] of Object.entries(FAULTY)) {
    test(`a cache that ${name} fails`, async () => {
      const results = await run(
        faults,
        undefined,
        cases.filter(({ id }) => ids.includes(id)),
      );
      assert.equal(results.length, ids.length);
      assert.deepEqual(
        results.filter(({ outcome }) => outcome !== "fail").map(({ id, outcome }) => `${id}: ${outcome}`),
        [],
      );
    });
  }

  test("a cache that stores nothing passes no case about separate entries", async () => {
    const results = await run({ isFresh: () => false }, ["key-chat-", "status-502"]);
    assert.ok(
      results.every(({ outcome }) => outcome === "inconclusive" || outcome === "na"),
      JSON.stringify(results.find(({ outcome }) => outcome !== "inconclusive")),
    );
  });

  test("a case is not applicable if the gateway lacks what it needs", async () => {
    const cache = await startCache(upstream);
    const given = { paths: { messages: null }, tenants: { a: { authorization: "Bearer k" } } };
    const results = await conform({
      target: cache.target,
      upstream,
      cases,
      adapter: given,
      only: ["cache-messages", "tenant-chat", "ttl-expires", "scope-thread"],
    });
    cache.stop();
    assert.deepEqual([...new Set(results.map(({ outcome }) => outcome))], ["na"], JSON.stringify(results));
  });
});
