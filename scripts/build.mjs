// `npm run build`, and wrangler's own build command: compiles src/ into build/, if anything has changed.
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { main, root, run, say, sha256 } from './lib.mjs';
import { setup } from './setup.mjs';

const at = (...parts) => path.join(root, ...parts);
const stamp = at('build', '.stamp');
const products = [at('build', 'index.js'), at('build', 'index_bg.wasm'), at('build', 'entry.js')];

// What counts is the size after gzip. Like beside like compresses best, so functions go by name, which brings together
// what was made from one generic function, and next to none is inlined (the compiler has inlined what is hot). Names
// go: a panic's message names its place without them. The features are those that worker-build itself allows.
const PASSES = ['-O3', '--always-inline-max-function-size=4', '--flexible-inline-max-function-size=0',
  '--one-caller-inline-max-function-size=20', '--skip-pass=local-cse', '--reorder-functions-by-name', '--strip-debug'];
const FEATURES = ['mutable-globals', 'sign-ext', 'nontrapping-float-to-int', 'bulk-memory', 'multivalue',
  'reference-types', 'exception-handling', 'simd'].map((feature) => `--enable-${feature}`);

export async function build() {
  const { workerBuild, env, versions } = await setup();
  const inputs = fingerprint(versions);
  if (products.every(existsSync) && existsSync(stamp) && readFileSync(stamp, 'utf8') === inputs) return;
  rmSync(stamp, { force: true });
  say('Building the worker (about a minute the first time, seconds after that)');
  await run(workerBuild, ['--release'], { env });
  await optimize(products[1], env);
  addEntry(root);
  const wasm = readFileSync(products[1]);
  const kB = (bytes) => `${Math.round(bytes / 1000)} kB`;
  say(`build/index_bg.wasm: ${kB(wasm.length)}, ${kB(gzipSync(wasm).length)} gzipped`);
  writeFileSync(stamp, inputs);
}

/** Makes what worker-build has compiled smaller and faster. */
export const optimize = (wasm, env) => run(env.WASM_OPT_BIN, [wasm, '-o', wasm, ...PASSES, ...FEATURES], { env });

/** The worker's own module, beside what worker-build has made of `folder`. */
export function addEntry(folder) {
  copyFileSync(path.join(folder, 'src', 'edge', 'entry.js'), path.join(folder, 'build', 'entry.js'));
}

/** Stands for all that a build depends on; taken before the build, so that a later edit builds again. */
function fingerprint(versions) {
  const sources = readdirSync(at('src'), { recursive: true }).sort().map((file) => path.join('src', file));
  const files = ['Cargo.toml', 'Cargo.lock', path.join('.cargo', 'config.toml'), path.join('scripts', 'build.mjs'), ...sources]
    .filter((file) => existsSync(at(file)) && statSync(at(file)).isFile());
  return sha256(process.env.RUSTFLAGS ?? '', ...versions, ...files.flatMap((file) => [file, readFileSync(at(file))]));
}

await main(import.meta, build);
