// The exchange table, end to end: every case of tests/exchanges/ through the built worker in workerd, on KV, and those
// that a store could tell apart on Upstash, too.
// The format is described in tests/exchanges/README.md.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { assertHeaders, assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ageEntries } from "../../testkit/entry.mjs";
import { release, worker } from "../../testkit/test-worker.mjs";
import { bytesOf, startUpstream } from "../../testkit/upstream.mjs";

const BODY = ["json", "body", "base64", "repeat"];
const FIELDS = {
  case: ["id", "name", "section", "kind", "only", "why", "vars", "steps"],
  advance: ["advance"],
  exchange: ["request", "upstream", "expect"],
  request: ["method", "path", "headers", ...BODY],
  upstream: ["status", "headers", "refuse", "cut", ...BODY],
  expect: ["calls", "status", "cache", "detail", "body", "headers", "sent"],
  sent: ["method", "url", "headers", "body"],
  repeat: ["head", "unit", "times", "tail"],
};

const folder = new URL("../exchanges/", import.meta.url);
const cases = readdirSync(folder)
  .filter((name) => name.endsWith(".json"))
  .sort()
  .flatMap((name) =>
    JSON.parse(readFileSync(new URL(name, folder), "utf8")).map((entry) => ({ ...entry, file: name })),
  );

test("the table is well-formed", () => {
  assert.ok(cases.length > 0);
  const seen = new Set();
  for (const { file, ...entry } of cases) {
    const where = `${file}: ${entry.id}`;
    assert.match(entry.id ?? "", /^[a-z0-9]+(-[a-z0-9]+)*$/, where);
    assert.ok(!seen.has(entry.id), `${where} is there twice`);
    seen.add(entry.id);
    known(entry, "case", where);
    for (const field of ["name", "section"]) assert.equal(typeof entry[field], "string", `${where} needs a ${field}`);
    assert.ok(["must", "should", undefined].includes(entry.kind), where);
    assert.ok(["e2e", "host", undefined].includes(entry.only), where);
    assert.equal(entry.only === undefined, entry.why === undefined, `${where}: \`only\` and \`why\` come together`);
    for (const value of Object.values(entry.vars ?? {}))
      assert.equal(typeof value, "string", `${where}: vars are strings`);
    for (const step of entry.steps) {
      if (step.advance !== undefined) {
        known(step, "advance", where);
        continue;
      }
      known(step, "exchange", where);
      for (const part of ["request", "upstream", "expect"]) known(step[part] ?? {}, part, where);
      known(step.expect?.sent ?? {}, "sent", where);
      for (const part of [step.request, step.upstream]) {
        known(part?.repeat ?? {}, "repeat", where);
        assert.ok(BODY.filter((field) => part?.[field] !== undefined).length <= 1, `${where}: two bodies`);
      }
    }
  }
});

function known(object, kind, where) {
  for (const field of Object.keys(object)) {
    assert.ok(FIELDS[kind].includes(field), `${where}: "${field}" is no field of a ${kind}`);
  }
}

const upstream = await startUpstream();
after(() => upstream.close());

const UPSTASH = ["callers.json", "controls.json", "key.json", "stale.json", "store.json", "streams.json"];
playOn("kv", "", cases);
playOn(
  "upstash",
  " on Upstash",
  cases.filter(({ file }) => UPSTASH.includes(file)),
);
// What an isolate remembers, and that it recognizes whoever asks again, must make no difference but that it says so. It
// cannot be made older or forget: so each case has a namespace of its own, and those in which time passes are left out.
const lasting = ({ steps, vars = {} }) =>
  steps.every((step) => step.advance === undefined) && vars.MEMORY_CACHE_BYTES === undefined;
playOn("kv", " in memory", cases.filter(lasting).map(remembered), { MEMORY_CACHE_BYTES: "8000000" });

// One worker per distinct set of variables, started when its cases begin and stopped when they are done.
function playOn(store, where, entries, more = {}) {
  const byVars = Map.groupBy(
    entries.filter((entry) => entry.only !== "host"),
    (entry) => JSON.stringify(Object.entries(entry.vars ?? {}).sort()),
  );
  for (const [key, group] of byVars) {
    const vars = { OPENAI_BASE_URL: "{upstream}/v1", ...Object.fromEntries(JSON.parse(key)), ...more };
    for (const name of Object.keys(vars)) vars[name] = vars[name].replaceAll("{upstream}", upstream.origin);

    describe((key === "[]" ? "without variables" : key) + where, () => {
      let proxy;
      before(async () => {
        proxy = await worker({ vars, store });
      });
      after(() => release(proxy));
      for (const entry of group) {
        test(`${entry.id}${where}: ${entry.name}`, () => play(entry, proxy));
      }
    });
  }
}

// The same case in a namespace of its own, in which a hit may be one of the isolate's, and is asked for again.
function remembered(entry) {
  const steps = entry.steps.map((step) => {
    const { headers = {} } = step.request ?? {};
    const own = Object.keys(headers).find((name) => name.toLowerCase() === "x-proxy-namespace") ?? "x-proxy-namespace";
    const request = { ...step.request, headers: { ...headers, [own]: `${entry.id} ${headers[own] ?? ""}`.trimEnd() } };
    const expected = { ...step.expect, ...(step.expect?.detail === null && { detail: [null, "memory"] }) };
    return { ...step, request, expect: expected, times: expected.cache === "HIT" ? 3 : 1 };
  });
  return { ...entry, steps };
}

async function play(entry, proxy) {
  await proxy.clear();
  upstream.reset();
  const bodies = []; // what the client got, by step
  for (const [index, step] of entry.steps.entries()) {
    try {
      if (step.advance !== undefined) {
        await ageEntries(proxy, step.advance);
        continue;
      }
      for (let n = 0; n < (step.times ?? 1); n += 1) {
        bodies[index] = await exchange(step, proxy, { bodies, vars: entry.vars ?? {} });
      }
    } catch (error) {
      error.message = `step ${index}: ${error.message}`;
      throw error;
    }
  }
}

async function exchange({ request = {}, upstream: answer = {}, expect: expected = {} }, proxy, { bodies, vars }) {
  const body = bytesOf(request);
  const { refuse, cut: truncate, ...said } = { ...answer };
  if (truncate !== undefined) said.truncate = truncate;
  if (BODY.every((field) => said[field] === undefined)) said.json = { id: `answer-${upstream.calls.length + 1}` };
  upstream.otherwise(said);
  if (refuse) await upstream.stopListening();
  const path = request.path ?? "/proxy/chat/completions";
  const exchanged = () =>
    send(proxy.origin, {
      method: request.method ?? "POST",
      path,
      headers: {
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        authorization: "Bearer sk-test",
        ...lowerCased(request.headers ?? {}),
      },
      body,
      allowTruncation: truncate !== undefined,
    });
  // The liveness probe touches nothing, the log included; everything else is waited for to its very end.
  const reply = path === "/healthz" ? await exchanged() : await proxy.settled(exchanged);
  if (refuse) await upstream.listen();
  check(reply, expected, { body, saidBytes: bytesOf(said), bodies, vars });
  return reply.body;
}

function check(reply, expected, { body, saidBytes, bodies, vars }) {
  if (expected.status !== undefined) {
    assert.equal(reply.status, expected.status, `the status of: ${reply.body.toString("utf8", 0, 300)}`);
  }
  if (expected.cache !== undefined)
    assert.equal(xCacheStatusOf(reply), expected.cache, `X-Cache-Status; ${reply.headers["cache-status"]}`);
  if (expected.detail !== undefined) {
    const any = [expected.detail].flat();
    assert.ok(any.includes(detailOf(reply)), `detail of ${reply.headers["cache-status"]} is not ${any.join(" or ")}`);
  }
  if (expected.calls !== undefined) assert.equal(upstream.calls.length, expected.calls, "calls to the upstream");
  if (expected.headers !== undefined) assertHeaders(reply.headers, expected.headers, "the answer");
  if (expected.body !== undefined) checkBody(reply, expected.body, { saidBytes, bodies, vars });
  if (expected.sent !== undefined) checkSent(expected.sent, body);
}

function checkBody(reply, wanted, { saidBytes, bodies, vars }) {
  const step = /^step:(\d+)$/.exec(wanted)?.[1];
  if (wanted === "upstream") assertSameBytes(reply.body, saidBytes, "the body");
  else if (step !== undefined) assertSameBytes(reply.body, bodies[step], "the body");
  else if (wanted.json !== undefined) assert.deepEqual(JSON.parse(reply.body.toString()), wanted.json);
  else if (wanted.text !== undefined) assert.equal(reply.body.toString(), wanted.text);
  else if (wanted.error !== undefined) checkError(reply, wanted.error, vars);
  else assert.fail(`no such expectation of a body: ${JSON.stringify(wanted)}`);
}

function checkError(reply, code, vars) {
  assertProxyError(reply, code);
  if (code !== "misconfigured") return;
  const { message } = JSON.parse(reply.body.toString()).error;
  assert.ok(
    Object.keys(vars).some((name) => message.includes(name)),
    `the message names no variable: ${message}`,
  );
}

function checkSent(wanted, requestBody) {
  const call = upstream.last;
  assert.ok(call !== undefined, "the upstream was not asked");
  if (wanted.method !== undefined) assert.equal(call.method, wanted.method, "the method sent upstream");
  if (wanted.url !== undefined) assert.equal(call.url, wanted.url, "the URL sent upstream");
  if (wanted.headers !== undefined) assertHeaders(call.headers, wanted.headers, "the request sent upstream");
  if (wanted.body === "request") assertSameBytes(call.body, requestBody ?? Buffer.alloc(0), "the body sent upstream");
  else if (wanted.body?.text !== undefined)
    assert.equal(call.body.toString(), wanted.body.text, "the body sent upstream");
  else if (wanted.body?.json !== undefined)
    assert.deepEqual(JSON.parse(call.body.toString()), wanted.body.json, "the body sent upstream");
  else assert.equal(wanted.body, undefined, `no such expectation of a sent body: ${JSON.stringify(wanted.body)}`);
}

function lowerCased(headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}
