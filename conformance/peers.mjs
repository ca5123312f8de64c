// `npm run conformance:peers [-- --only litellm,nginx] [--case id,…]`: installs other caches, starts each on loopback, runs the
// generic cases against them and against ourselves, and writes results/ and the README's table.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from '../scripts/build.mjs';
import { cache, freePort, main, root, run, say, Stop, systemEnv, systemPackages, which } from '../scripts/lib.mjs';
import { systemPython } from '../scripts/python.mjs';
import { REPRISE } from './engine/adapter.mjs';
import { Upstream } from './engine/upstream.mjs';
import { failures, table, totals } from './engine/report.mjs';
import { ownWorker } from './own.mjs';
import { PEERS } from './peers/list.mjs';
import { conform, write } from './run.mjs';

const RESULTS = fileURLToPath(new URL('results/', import.meta.url));
const HOME = path.join(cache, 'peers');

/** What `start` needs of an installed peer; installed once, outside the checkout. */
async function install(peer) {
  const spec = peer.pip ?? peer.npm;
  if (!spec) {
    const { program, package: name, version } = peer.system;
    if (!which(program)) await systemPackages(program, [name], `the package called ${name}`);
    const [said] = /\d[\w.]+/.exec(await outputBoth(which(program), version)) ?? ['?'];
    return { version: said, program: which(program) };
  }
  const home = path.join(HOME, `${peer.id}-${spec.version}`);
  const whole = path.join(home, '.whole'); // written last: an interrupted installation is done again
  if (!existsSync(whole)) {
    say(`Installing ${peer.name} ${spec.version} into ${home}`);
    rmSync(home, { recursive: true, force: true });
    mkdirSync(home, { recursive: true });
    if (peer.pip) {
      await run(await systemPython(), ['-m', 'venv', home], { env: systemEnv });
      await run(path.join(home, 'bin', 'python'), ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...spec.requirements], { env: systemEnv });
    } else {
      writeFileSync(path.join(home, 'package.json'), '{"private":true}');
      await run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', `${spec.package}@${spec.version}`], { env: systemEnv, cwd: home });
    }
    writeFileSync(whole, '');
  }
  return { version: spec.version, bin: path.join(home, 'bin'), modules: path.join(home, 'node_modules') };
}

const outputBoth = (program, args) => new Promise((resolve) => {
  let said = '';
  const child = spawn(program, args);
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { said += data; });
  child.once('exit', () => resolve(said));
});

/** Starts a peer: { target, version, adapter, stop }. */
async function start(peer, upstream) {
  const installed = await install(peer);
  const folder = mkdtempSync(path.join(os.tmpdir(), `reprise-${peer.id}-`));
  const port = await freePort();
  if (peer.needs && !which(peer.needs)) await systemPackages(peer.needs, [peer.needs], `the package that brings ${peer.needs}`);
  const { program, args, env = {}, cwd = folder, companion } = peer.start({ port, second: await freePort(), upstream: upstream.origin, folder, redis: which('redis-server'), ...installed });
  const beside = companion && spawn(...companion, { stdio: 'ignore' });
  // Nothing of this machine's own settings, so that everybody starts the same thing.
  const child = spawn(program, args, { cwd, env: { PATH: systemEnv.PATH, HOME: folder, ...env }, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { log = (log + data).slice(-20_000); });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const kill = (signal) => {
    try { process.kill(-child.pid, signal); } catch { /* it has ended */ }
  };
  const cleanUp = () => {
    kill('SIGKILL');
    beside?.kill();
    rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', cleanUp);
  const origin = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + 120_000;
  while (!await fetch(origin + (peer.ready ?? '/'), { signal: AbortSignal.timeout(2000) }).then((reply) => reply.status < 500 || !peer.ready, () => false)) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Stop(`${peer.name} did not start:\n${log}`);
    await sleep(200);
  }
  const adapter = typeof peer.adapter === 'function' ? peer.adapter({ upstream: upstream.origin }) : peer.adapter;
  return { target: origin + peer.base, version: installed.version, adapter: { name: peer.id, ...adapter }, stop: async () => {
    kill('SIGTERM');
    await Promise.race([ended, sleep(5000, undefined, { ref: false })]);
    process.off('exit', cleanUp);
    cleanUp();
  }, log: () => log };
}

const share = ({ pass, fail, na, idle }) => `${pass} of ${pass + fail}${na + idle > 0 ? ` (+${na + idle})` : ''}`;

/** The README's table, of the results that are kept. */
function markdown(kept) {
  const rows = kept.map((one) => {
    const wrong = one.cases.filter((result) => result.wrong && result.kind === 'must' && result.outcome === 'fail').length;
    const hits = one.cases.filter(({ id, outcome }) => /^(cache|stream)-(chat|completions|responses|messages|embeddings)(-stored)?$/.test(id) && outcome === 'pass').length;
    return `| ${one.name} | ${one.version} | ${one.date} | ${share(one.totals.must)} | ${wrong} | ${share(one.totals.should)} | ${hits} of 9 |`;
  });
  return ['| cache | version | run | `must` | wrong answers | `should` | stores |', '|---|---|---|---|---|---|---|', ...rows].join('\n');
}

/** Puts the table between its marks in the README. */
export function intoReadme(mark, text) {
  const file = path.join(root, 'README.md');
  const [before, rest] = readFileSync(file, 'utf8').split(`<!-- ${mark} -->\n`);
  const after = rest?.split(`<!-- /${mark} -->`)[1];
  if (after === undefined) throw new Stop(`README.md has no marks for ${mark}`);
  writeFileSync(file, `${before}<!-- ${mark} -->\n${text}\n<!-- /${mark} -->${after}`);
}

await main(import.meta, async () => {
  const { values } = parseArgs({ options: { only: { type: 'string' }, case: { type: 'string' } } });
  const only = values.only?.split(',');
  const peers = [{ id: 'reprise', name: 'Reprise' }, ...PEERS].filter(({ id }) => !only || only.includes(id));
  if (peers.length === 0) throw new Stop(`Peers are ${PEERS.map(({ id }) => id).join(', ')}, and reprise.`);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130));
  for (const peer of peers) {
    const upstream = await new Upstream().listen();
    if (peer.id === 'reprise') await build();
    const running = peer.id === 'reprise'
      ? { ...await ownWorker(upstream), version: JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).version, adapter: undefined }
      : await start(peer, upstream);
    const started = Date.now();
    const cases = await conform({ target: running.target, upstream, profile: 'generic', adapter: running.adapter ?? REPRISE, only: values.case?.split(','),
      concurrency: 8, patience: peer.patience ?? 2000, limit: 12_000 });
    await running.stop();
    await upstream.close();
    say(`${peer.name} ${running.version}, ${((Date.now() - started) / 1000).toFixed(0)} s`);
    if (values.case) console.log(failures(cases));
    console.log(`${table(cases)}\n`);
    if (values.case) continue;
    const again = `npm run conformance:peers -- --only ${peer.id} --case ID`;
    write(path.join(RESULTS, `${peer.id}.json`), { id: peer.id, name: peer.name, version: running.version, from: peer.from ?? 'this repository', profile: 'generic',
      date: new Date().toISOString().slice(0, 10), again, totals: totals(cases), cases });
  }
  if (values.case) return;
  const order = ['reprise', ...PEERS.map(({ id }) => id)];
  const kept = order.filter((id) => existsSync(path.join(RESULTS, `${id}.json`))).map((id) => JSON.parse(readFileSync(path.join(RESULTS, `${id}.json`), 'utf8')));
  intoReadme('peers', markdown(kept));
  say(`Written to ${path.relative(root, RESULTS)} and README.md`);
});
