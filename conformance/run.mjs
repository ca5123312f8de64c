// `npm run conformance`: the cases against any cache for LLM APIs, or against our own built worker. README.md says how.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { adapter, REPRISE } from './engine/adapter.mjs';
import { loadCases } from './engine/cases.mjs';
import { playAll } from './engine/play.mjs';
import { failures, table, totals } from './engine/report.mjs';
import { Upstream } from './engine/upstream.mjs';

const USAGE = `npm run conformance -- [--target URL --upstream-port N] [options]

  --target URL         the cache's base URL, with what comes before /chat/completions;
                       without it, our own built worker is started
  --upstream-port N    where the scripted upstream listens (127.0.0.1): the target's upstream is http://127.0.0.1:N/v1
  --profile NAME       generic (judged by the upstream's calls alone) or reprise (our own headers, too)
  --adapter FILE       JSON: how the target is spoken to (conformance/README.md)
  --only TEXT          cases whose id contains one of these, comma-separated; --topic TEXT: of these topics
  --concurrency N      cases side by side (12)      --patience MS  how long a hit may take to appear (4000)
  --json FILE          write the results            --strict       count what was not exercised as failed
  --bail               stop at the first failure    --list         list the cases
`;

/** Runs the cases that `options` choose against a target; returns the results. */
export async function conform(options) {
  const { target, upstream, profile = 'generic', adapter: given, only, topic, patience = 4000, limit, concurrency = 12, bail, onResult, cases } = options;
  const some = (cases ?? loadCases()).filter((entry) => chosen(entry, { profile, only, topic }));
  return playAll(some, { base: target, upstream, profile, patience, limit, adapter: adapter(given ?? (profile === 'reprise' ? REPRISE : {})) },
    { concurrency, bail, onResult });
}

export function chosen(entry, { profile, only, topic }) {
  if (entry.profile === 'reprise' && profile !== 'reprise') return false;
  if (only && !only.some((text) => entry.id.includes(text))) return false;
  return !topic || topic.includes(entry.topic);
}

export const bad = (results, strict) => results.filter(({ kind, outcome }) =>
  kind !== 'note' && (outcome === 'fail' || (strict && outcome !== 'pass')));

async function main() {
  const { values } = parseArgs({ options: {
    target: { type: 'string' }, 'upstream-port': { type: 'string' }, profile: { type: 'string' }, adapter: { type: 'string' },
    only: { type: 'string' }, topic: { type: 'string' }, concurrency: { type: 'string' }, patience: { type: 'string' },
    json: { type: 'string' }, strict: { type: 'boolean' }, bail: { type: 'boolean' }, list: { type: 'boolean' }, help: { type: 'boolean' },
  } });
  const list = (text) => text?.split(',');
  const profile = values.profile ?? (values.target ? 'generic' : 'reprise');
  const choice = { profile, only: list(values.only), topic: list(values.topic) };
  if (values.help || !['generic', 'reprise'].includes(profile) || Boolean(values.target) !== Boolean(values['upstream-port'])) {
    console.log(USAGE);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  if (values.list) {
    for (const entry of loadCases().filter((one) => chosen(one, choice))) console.log(`${entry.kind.padEnd(6)} ${entry.topic.padEnd(11)} ${entry.id}: ${entry.name}`);
    return;
  }
  if (!values.target) await (await import('../scripts/build.mjs')).build();
  const upstream = await new Upstream().listen(Number(values['upstream-port'] ?? 0));
  const own = values.target ? undefined : await (await import('./own.mjs')).ownWorker(upstream);
  try {
    const given = values.adapter ? JSON.parse(readFileSync(values.adapter, 'utf8')) : own ? REPRISE : undefined;
    const started = Date.now();
    const results = await conform({ target: own?.target ?? values.target, upstream, adapter: given, bail: values.bail, ...choice,
      concurrency: Number(values.concurrency ?? 12), patience: Number(values.patience ?? 4000) });
    const strict = values.strict ?? Boolean(own);
    const failed = bad(results, strict);
    console.log(`${failures(results)}\n\n${table(results)}`);
    if (strict) for (const { id, outcome, why } of failed) if (outcome !== 'fail') console.log(`not exercised (${outcome}): ${id}: ${why}`);
    console.log(`\n${results.length} cases (${profile}) in ${((Date.now() - started) / 1000).toFixed(1)} s: ${results.length - failed.length} passed, ${failed.length} failed`);
    if (values.json) write(values.json, { target: values.target ?? 'reprise', profile, date: new Date().toISOString().slice(0, 10), totals: totals(results), cases: results });
    process.exitCode = failed.length > 0 ? 1 : 0;
  } finally {
    await own?.stop();
    await upstream.close();
  }
}

/** Results as JSON, one case a line. */
export function write(file, { cases, ...head }) {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  const lines = cases.map(({ name, ms, calls, ...rest }) => `    ${JSON.stringify(rest)}`);
  writeFileSync(file, `${JSON.stringify(head, null, 2).slice(0, -2)},\n  "cases": [\n${lines.join(',\n')}\n  ]\n}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
