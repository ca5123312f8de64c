// `npm run conformance`: the cases against any cache for LLM APIs, or against our own built Worker. README.md explains it.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { adapter, REPRISE } from "./engine/adapter.mjs";
import { loadCases } from "./engine/cases.mjs";
import { failures, table, totals } from "./engine/report.mjs";
import { runCases } from "./engine/runner.mjs";
import { ScriptedUpstream } from "./engine/upstream.mjs";

const USAGE = `npm run conformance -- [--target URL --upstream-port N] [options]

  --target URL         the cache's base URL, with what comes before /chat/completions;
                       without it, our own built Worker is started
  --packed             the command reprise is started instead, as installed from its tarball
  --upstream-port N    where the scripted upstream listens (127.0.0.1): the target's upstream is http://127.0.0.1:N/v1
  --profile NAME       generic (judged by the upstream's calls alone) or reprise (our own headers, too)
  --adapter FILE       JSON: how the target is spoken to (conformance/README.md)
  --only TEXT          cases whose id contains one of these, comma-separated; --topic TEXT: of these topics
  --concurrency N      cases side by side (12)      --hit-timeout MS  how long a hit may take to appear (4000)
  --json FILE          write the results            --strict       everything but a pass is a failure
  --bail               stop at the first failure    --list         list the cases
`;

/** @type {import("node:util").ParseArgsOptionsConfig} */
const OPTIONS = {
  target: { type: "string" },
  "upstream-port": { type: "string" },
  profile: { type: "string" },
  adapter: { type: "string" },
  packed: { type: "boolean" },
  only: { type: "string" },
  topic: { type: "string" },
  concurrency: { type: "string" },
  "hit-timeout": { type: "string" },
  json: { type: "string" },
  strict: { type: "boolean" },
  bail: { type: "boolean" },
  list: { type: "boolean" },
  help: { type: "boolean" },
};

/**
 * Runs the cases that `options` select against a target; returns the results.
 *
 * @param {Record<string, any>} options
 */
export async function conform({
  target,
  upstream,
  profile = "generic",
  adapter: given,
  hitTimeoutMs = 4000,
  limitMs,
  cases,
  ...options
}) {
  const selected = (cases ?? loadCases()).filter((entry) => isSelected(entry, { profile, ...options }));
  const spoken = adapter(given ?? (profile === "reprise" ? REPRISE : {}));
  return runCases(selected, { base: target, upstream, profile, hitTimeoutMs, limitMs, adapter: spoken }, options);
}

/**
 * @param {Record<string, any>} entry
 * @param {Record<string, any>} selection
 */
export function isSelected(entry, { profile, only, topic }) {
  if (entry.profile === "reprise" && profile !== "reprise") return false;
  if (only && !only.some((text) => entry.id.includes(text))) return false;
  return !topic || topic.includes(entry.topic);
}

/** The results that count as failures; with `strict` all but those that passed. */
export const failed = (results, strict) =>
  results.filter(({ kind, outcome }) => kind !== "note" && (outcome === "fail" || (strict && outcome !== "pass")));

async function main() {
  /** @type {{ values: Record<string, any> }} */
  const { values } = parseArgs({ options: OPTIONS });
  const list = (text) => text?.split(",");
  const profile = values.profile ?? (values.target ? "generic" : "reprise");
  const selection = { profile, only: list(values.only), topic: list(values.topic) };
  const isMistaken =
    !["generic", "reprise"].includes(profile) || Boolean(values.target) !== Boolean(values["upstream-port"]);
  if (values.help || isMistaken) {
    console.log(USAGE);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  if (values.list) {
    const selected = loadCases().filter((entry) => isSelected(entry, selection));
    for (const { kind, topic, id, name } of selected)
      console.log(`${kind.padEnd(6)} ${topic.padEnd(11)} ${id}: ${name}`);
    return;
  }
  if (!values.target) await (await import("../scripts/build.mjs")).build();
  const upstream = await ScriptedUpstream.start(Number(values["upstream-port"] ?? 0));
  const { packed } = values;
  const reprise = values.target
    ? undefined
    : await (await import("./start-reprise.mjs")).startReprise(upstream, { packed });
  try {
    const given = values.adapter ? JSON.parse(readFileSync(values.adapter, "utf8")) : reprise && REPRISE;
    const started = Date.now();
    const results = await conform({
      ...selection,
      target: reprise?.target ?? values.target,
      upstream,
      adapter: given,
      bail: values.bail,
      concurrency: Number(values.concurrency ?? 12),
      hitTimeoutMs: Number(values["hit-timeout"] ?? 4000),
    });
    const strict = values.strict ?? reprise !== undefined;
    const bad = failed(results, strict);
    console.log(`${failures(results)}\n\n${table(results)}`);
    for (const { id, outcome, why } of bad)
      if (outcome !== "fail") console.log(`not decided (${outcome}): ${id}: ${why}`);
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    console.log(
      `\n${results.length} cases (${profile}) in ${seconds} s: ${results.length - bad.length} passed, ${bad.length} failed`,
    );
    if (values.json) {
      const date = new Date().toISOString().slice(0, 10);
      writeResults(values.json, {
        target: values.target ?? "reprise",
        profile,
        date,
        totals: totals(results),
        cases: results,
      });
    }
    process.exitCode = bad.length > 0 ? 1 : 0;
  } finally {
    await reprise?.stop();
    await upstream.close();
  }
}

/** Writes results as JSON, one case a line. */
export function writeResults(file, { cases, ...head }) {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  const lines = cases.map(({ name, ms, calls, ...rest }) => `    ${JSON.stringify(rest)}`);
  writeFileSync(file, `${JSON.stringify(head, null, 2).slice(0, -2)},\n  "cases": [\n${lines.join(",\n")}\n  ]\n}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
