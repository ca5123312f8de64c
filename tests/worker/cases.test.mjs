// The cases for Reprise alone, conformance/cases/reprise/, through the built Worker in workerd: with KV, those that a store could
// influence with Upstash too, and with the isolate's memory.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { adapter, REPRISE } from "../../conformance/engine/adapter.mjs";
import { loadCases, REPRISE_ONLY } from "../../conformance/engine/cases.mjs";
import { runCase } from "../../conformance/engine/runner.mjs";
import { ScriptedUpstream } from "../../conformance/engine/upstream.mjs";
import { ageEntries } from "../../testkit/entry.mjs";
import { release, worker } from "../../testkit/test-worker.mjs";

const cases = loadCases(REPRISE_ONLY).filter(({ only }) => only !== "host");
const UPSTASH = [
  "tenants.json",
  "controls.json",
  "key.json",
  "stale.json",
  "storing.json",
  "streaming.json",
  "samples.json",
];

const upstream = await ScriptedUpstream.start();
after(() => upstream.close());

test("there are cases", () => assert.ok(cases.length > 600));

runAll("kv", "", cases);
runAll(
  "upstash",
  " with Upstash",
  cases.filter(({ file }) => UPSTASH.includes(file)),
);
// The isolate's memory must make no difference except in `detail`. It cannot be aged or cleared, so each case has its own namespace,
// and the cases in which time passes are left out. So are those that need a namespace of their own, or other slots each time.
/** @type {(entry: Record<string, any>) => boolean} */
const withoutTime = ({ file, steps, vars = {} }) =>
  steps.every(({ advance }) => advance === undefined) &&
  vars.MEMORY_CACHE_BYTES === undefined &&
  !["dialects.json", "samples.json"].includes(file);
runAll("kv", " with memory", cases.filter(withoutTime).map(inOwnNamespace), { MEMORY_CACHE_BYTES: "8000000" });

// One Worker for each distinct set of variables. It is started before its cases and stopped after them.
function runAll(store, suffix, entries, moreVars = {}) {
  const byVars = Map.groupBy(entries, ({ vars = {} }) => JSON.stringify(Object.entries(vars).sort()));
  for (const [key, group] of byVars) {
    const vars = { OPENAI_BASE_URL: "{upstream}/v1", ...Object.fromEntries(JSON.parse(key)), ...moreVars };
    for (const name of Object.keys(vars)) vars[name] = vars[name].replaceAll("{upstream}", upstream.origin);

    describe((key === "[]" ? "without variables" : key) + suffix, () => {
      let running;
      let target;
      before(async () => {
        running = await worker({ vars, store });
        target = targetOf(running);
      });
      after(() => release(running));
      for (const entry of group) {
        test(`${entry.id}${suffix}: ${entry.name}`, async () => {
          const { outcome, why } = await runCase(entry, target);
          assert.equal(outcome, "pass", why);
        });
      }
    });
  }
}

function targetOf(running) {
  const { origin } = running;
  const control = {
    origin,
    clear: () => running.clear(),
    advance: (seconds) => ageEntries(running, seconds),
    settled: (exchange) => running.settled(exchange),
  };
  return { base: `${origin}/proxy`, upstream, profile: "reprise", adapter: adapter(REPRISE), hitTimeoutMs: 0, control };
}

// The same case in its own namespace. A hit may come from the memory, and is requested three times.
function inOwnNamespace(entry) {
  const steps = entry.steps.map((step) => {
    const { headers = {} } = step.request ?? {};
    const name =
      Object.keys(headers).find((header) => header.toLowerCase() === "x-proxy-namespace") ?? "x-proxy-namespace";
    const namespace = `${entry.id} ${headers[name] ?? ""}`.trimEnd();
    const request = { ...step.request, headers: { ...headers, [name]: namespace } };
    const expect = { ...step.expect, ...(step.expect?.detail === null && { detail: [null, "memory"] }) };
    return { ...step, request, expect, times: expect.cacheStatus === "HIT" ? 3 : 1 };
  });
  return { ...entry, steps };
}
