// `npm test`: every tier in order, stopping at the first that fails. `npm test -- --only unit,e2e` runs some.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { build } from './build.mjs';
import { main, node, output, patiently, root, run, say, Stop, systemPackages, toolEnv, which, wrangler } from './lib.mjs';
import { python } from './python.mjs';
import { setup } from './setup.mjs';

const WASM = ['--target', 'wasm32-unknown-unknown'];
// As worker-build compiles, so that what is linted is what is shipped.
const wasmEnv = { ...toolEnv, WASM_BINDGEN_USE_JS_SYS: '1' };
const cargo = (args, env = toolEnv) => run('cargo', args, { env });

const steps = {
  fmt: () => cargo(['fmt', '--check']),
  'clippy-host': () => cargo(['clippy', '--locked', '--all-targets', '--', '-D', 'warnings']),
  'clippy-wasm': () => cargo(['clippy', '--locked', ...WASM, '--', '-D', 'warnings'], wasmEnv),
  unit: () => cargo(['test', '--locked']),
  build,
  deploy: () => run(...wrangler('deploy', '--dry-run')),
  e2e: () => nodeTests('tests/e2e'),
  conformance: async () => {
    await nodeTests('conformance/test');
    const conform = (profile, env) =>
      run(node(), [path.join('conformance', 'run.mjs'), '--strict', '--profile', profile], { env: { ...toolEnv, ...env } });
    console.log('\n--- our own worker ---');
    await conform('reprise');
    console.log('\n--- without what it keeps in memory ---');
    await conform('reprise', { REPRISE_MEMORY: '0' });
    console.log('\n--- what every cache owes ---');
    await conform('generic');
  },
  clients: async () => nodeTests('tests/clients', { REPRISE_PYTHON: await clientsPython() }),
};

/** Runs {folder}/*.test.mjs; a folder without tests is a failure, not a success. */
async function nodeTests(folder, variables = {}) {
  const at = path.join(root, folder);
  const files = (existsSync(at) ? readdirSync(at) : []).filter((file) => file.endsWith('.test.mjs')).sort();
  if (files.length === 0) throw new Stop(`${folder} has no *.test.mjs`);
  await run(node(), ['--test', '--test-reporter=spec', ...files.map((file) => path.join(folder, file))],
    { env: { ...toolEnv, ...variables } });
}

/** rustfmt and clippy, which a minimal Rust does not have. */
async function rustComponents() {
  const missing = [];
  for (const [component, command] of [['rustfmt', 'fmt'], ['clippy', 'clippy']]) {
    if (await output('cargo', [command, '--version']) === undefined) missing.push(component);
  }
  if (missing.length === 0) return;
  const names = missing.join(' and ');
  if (!which('rustup')) throw new Stop(`This Rust has no ${names}. Install Rust from https://rustup.rs.`);
  say(`Adding ${names} to Rust (seconds)`);
  await patiently(() => run('rustup', ['component', 'add', ...missing]));
}

/** A Redis, which the tests of that store start themselves. */
async function redis() {
  if (which('redis-server')) return;
  await systemPackages('redis-server', ['redis-server'], 'the package called redis');
  if (!which('redis-server')) throw new Stop('The package redis-server is installed but brought no redis-server.');
}

const clientsPython = () => python(path.join(root, 'tests', 'clients', 'requirements.txt'),
  'the clients for Python that the tests run (under a minute)');

/** The steps to run: all, or those of --only, with a build before what runs the built worker. */
function chosen(args) {
  const names = Object.keys(steps);
  if (args.length === 0) return names;
  const only = args[0] === '--only' && args.length === 2 ? args[1].split(',') : [];
  if (only.length === 0 || only.some((name) => !names.includes(name))) {
    throw new Stop(`Usage: npm test [-- --only step,…], with steps among ${names.join(', ')}`);
  }
  if (['deploy', 'e2e', 'conformance', 'clients'].some((name) => only.includes(name))) only.push('build');
  return names.filter((name) => only.includes(name));
}

await main(import.meta, async () => {
  const seconds = [];
  const timed = async (name, step) => {
    const start = performance.now();
    try {
      await step();
    } finally {
      seconds.push(`${name} ${((performance.now() - start) / 1000).toFixed(1)}`);
    }
  };
  const names = chosen(process.argv.slice(2));
  try {
    await timed('set-up', async () => {
      await setup();
      await rustComponents();
      if (names.includes('e2e')) await redis();
      if (names.includes('clients')) await clientsPython();
    });
    for (const name of names) {
      console.log(`\n=== ${name} ===`);
      await timed(name, steps[name]);
    }
    console.log();
    say('All passed.');
  } finally {
    say(`Seconds: ${seconds.join(', ')}`);
  }
});
