// `npm run mutations [-- id,…]`: breaks a copy of the source in one way after the other, builds it, and expects the suite to
// notice. A mutation that does not apply is an error: the list has to follow the source.

import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { compile } from '../scripts/build.mjs';
import { log as say, main, root, toolEnv, UserError as Stop } from '../scripts/common.mjs';
import { setup } from '../scripts/setup.mjs';
import { loadCases } from './engine/cases.mjs';
import { Upstream } from './engine/upstream.mjs';
import { ownWorker } from './own.mjs';
import { bad, conform } from './run.mjs';

const LIST = new URL('mutations/mutations.json', import.meta.url);
const RESULTS = new URL('results/mutations.json', import.meta.url);

/** The source with one mutation in it. */
export function mutate(source, { id, search, replace }) {
  const pieces = source.split(search);
  if (pieces.length !== 2) throw new Stop(`${id}: its text is ${pieces.length - 1} times in the source, not once`);
  return pieces.join(replace);
}

// Where two places guard against the same mistake, one mutation changes both (`also`).
export const edits = ({ id, file, search, replace, also = [] }) => [{ id, file, search, replace }, ...also.map((edit) => ({ id, ...edit }))];

export const mutations = () => JSON.parse(readFileSync(LIST, 'utf8'));

await main(import.meta, async () => {
  const only = process.argv[2]?.split(',');
  const all = mutations();
  for (const one of all) for (const edit of edits(one)) mutate(readFileSync(path.join(root, edit.file), 'utf8'), edit);
  const chosen = all.filter(({ id }) => !only || only.includes(id));
  if (chosen.length === 0) throw new Stop('There is no such mutation.');

  const copy = mkdtempSync(path.join(os.tmpdir(), 'reprise-mutations-'));
  process.once('exit', () => rmSync(copy, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130));
  for (const name of ['src', 'xtask', 'benches', '.cargo', 'Cargo.toml', 'Cargo.lock', 'rust-toolchain.toml']) cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  const manifest = path.join(copy, 'Cargo.toml');
  writeFileSync(manifest, `${readFileSync(manifest, 'utf8')}\n[profile.mutations]\ninherits = "release"\nopt-level = 1\nlto = false\n` +
    'codegen-units = 16\nincremental = true\n');
  const target = path.join(root, 'target', 'mutations');
  mkdirSync(target, { recursive: true });
  await setup({ tests: true });

  const folder = path.join(copy, 'build');
  const env = { ...toolEnv, CARGO_TARGET_DIR: target, CARGO_TERM_QUIET: 'true' };
  const entry = path.join(copy, 'src', 'edge', 'main.js');
  // What cargo says against a mutation is on the terminal by then.
  const build = () => compile({ crate: copy, name: 'reprise', main: entry, folder, profile: 'mutations', optimize: false, env });
  const upstream = await new Upstream().listen();
  const cases = loadCases();
  const test = async (options) => {
    const worker = await ownWorker(upstream, { build: folder });
    try {
      return bad(await conform({ target: worker.target, upstream, profile: 'reprise', cases, patience: 1500, ...options }), true);
    } finally {
      await worker.stop();
    }
  };

  say('Building the unmutated source (a minute)');
  await build();
  const wrong = await test({});
  if (wrong.length > 0) throw new Stop(`The unmutated source fails ${wrong.map(({ id }) => id).join(', ')}`);

  const results = [];
  for (const one of chosen) {
    const started = Date.now();
    const whole = edits(one).map((edit) => ({ ...edit, at: path.join(copy, edit.file), source: readFileSync(path.join(copy, edit.file), 'utf8') }));
    for (const edit of whole) writeFileSync(edit.at, mutate(edit.source, edit));
    await build();
    // The likeliest topics first; all the others only where those notice nothing.
    let noticed = await test({ topic: one.first });
    if (noticed.length === 0) noticed = await test({});
    for (const { at, source } of whole) writeFileSync(at, source);
    const seconds = ((Date.now() - started) / 1000).toFixed(0);
    results.push({ id: one.id, what: one.what, noticed: noticed.map(({ id }) => id) });
    const by = noticed.slice(0, 4).map(({ id }) => id).join(', ') + (noticed.length > 4 ? `, … (${noticed.length})` : '');
    console.log(`${noticed.length > 0 ? 'noticed ' : 'MISSED  '} ${one.id.padEnd(28)} ${seconds.padStart(3)} s  ${by}`);
  }
  await upstream.close();
  const missed = results.filter(({ noticed }) => noticed.length === 0);
  if (!only) {
    const revision = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root }).toString().trim();
    const head = { date: new Date().toISOString().slice(0, 10), revision, mutations: results.length, noticed: results.length - missed.length };
    writeFileSync(RESULTS, `${JSON.stringify(head).slice(0, -1)}, "results": [\n${results.map((one) => `  ${JSON.stringify(one)}`).join(',\n')}\n]}\n`);
  }
  if (missed.length > 0) throw new Stop(`Not noticed: ${missed.map(({ id }) => id).join(', ')}`);
  say(`All ${results.length} mutations were noticed.`);
});
