// Everything a build needs, on a machine that has only rustup, Node, npm and git. Each step looks first and
// does nothing, silently, when there is nothing to do; what takes long says so and shows its progress.
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { cache, isExecutable, main, modules, output, patiently, root, run, say, sha256, Stop, systemEnv,
  systemPackages, toolEnv, which } from './lib.mjs';

const WORKER_BUILD = '0.8.7';
const MIN_RUST = [1, 91]; // of worker-build
const TARGET = 'wasm32-unknown-unknown';
const exe = process.platform === 'win32' ? '.exe' : '';

/** Sets up; returns the build tool, its environment, and what identifies the tools (for build stamps). */
export async function setup() {
  const rustc = await rust();
  await nodeModules();
  const workerBuild = await ownTool('worker-build', 'worker-build', WORKER_BUILD, 4, nativeTools);
  const bindgen = await wasmBindgen();
  const tool = (name) => path.join(modules, '.bin', name);
  // worker-build would download these two; npm already has them, at the versions that it expects.
  const env = { ...toolEnv, WASM_OPT_BIN: tool('wasm-opt'), ESBUILD_BIN: tool('esbuild') };
  if (bindgen.file) env.WASM_BINDGEN_BIN = bindgen.file;
  const versions = [rustc, WORKER_BUILD, bindgen.version, ...['binaryen', 'esbuild'].map(packageVersion)];
  return { workerBuild, env, versions };
}

/** A Rust that is new enough and has the wasm target. Returns what `rustc -vV` says. */
async function rust() {
  if (!which('cargo') || !which('rustc')) {
    throw new Stop('Rust is missing. Install it from https://rustup.rs and run this again.');
  }
  const [version, sysroot] = await Promise.all([output('rustc', ['-vV']), output('rustc', ['--print', 'sysroot'])]);
  if (version === undefined || sysroot === undefined) {
    throw new Stop('`rustc` does not run. Install a toolchain (`rustup default stable`) and run this again.');
  }
  const [, major, minor] = /^rustc (\d+)\.(\d+)/.exec(version)?.map(Number) ?? [];
  if (major === MIN_RUST[0] && minor < MIN_RUST[1]) {
    throw new Stop(`Rust ${major}.${minor} is too old, ${MIN_RUST.join('.')} is needed: \`rustup update stable\`.`);
  }
  if (!existsSync(path.join(sysroot, 'lib', 'rustlib', TARGET, 'lib'))) {
    if (!which('rustup')) throw new Stop(`This Rust has no ${TARGET} target. Install Rust from https://rustup.rs.`);
    say(`Adding the ${TARGET} target to Rust (seconds)`);
    await patiently(() => run('rustup', ['target', 'add', TARGET]));
  }
  return version;
}

/** node_modules as package-lock.json has them, on this kind of machine. */
async function nodeModules() {
  const stamp = path.join(modules, '.reprise');
  const want = sha256(readFileSync(path.join(root, 'package-lock.json')), process.platform, process.arch);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === want) return;
  if (!which('npm')) throw new Stop('npm is missing. It comes with Node (https://nodejs.org).');
  say('Installing wrangler, Node 22 and the other npm packages into node_modules (about a minute, 700 MB)');
  // With the machine's own Node: npm replaces the one in node_modules.
  // Each file of the lock is asked for by itself, some hundred: one that a registry drops must not end the set-up.
  await patiently(() => run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error', '--fetch-retries=5'],
    { env: systemEnv, shell: process.platform === 'win32' }));
  writeFileSync(stamp, want);
}

const packageVersion = (name) => JSON.parse(readFileSync(path.join(modules, name, 'package.json'), 'utf8')).version;

/** A cargo-installed program of an exact version: in our cache, or on PATH, or compiled now into the cache. */
export async function ownTool(program, crate, version, minutes, prepare = async () => {}) {
  const ready = await findTool(program, version);
  if (ready) return ready;
  await prepare();
  const home = path.join(cache, `${program}-${version}`);
  const partial = `${home}.partial`; // renamed when whole; kept when interrupted, and taken up again
  mkdirSync(partial, { recursive: true });
  say(`Compiling ${crate} ${version} with cargo: once, about ${minutes} minutes on two cores`);
  const [built, target] = [path.join(partial, 'root'), path.join(partial, 'target')];
  // On PATH only so that cargo does not tell the user to put it there.
  const env = { ...toolEnv, PATH: toolEnv.PATH + path.delimiter + path.join(built, 'bin') };
  try {
    await run('cargo', ['install', `${crate}@${version}`, '--locked', '--force', '--no-track',
      '--root', built, '--target-dir', target], { cwd: partial, env });
    rmSync(home, { recursive: true, force: true });
    renameSync(built, home);
  } catch (error) {
    if (!isExecutable(inCache(program, version))) throw error; // another clone may have been faster
  }
  rmSync(partial, { recursive: true, force: true });
  return inCache(program, version);
}

const inCache = (program, version) => path.join(cache, `${program}-${version}`, 'bin', program + exe);

async function findTool(program, version) {
  if (isExecutable(inCache(program, version))) return inCache(program, version);
  const onPath = which(program);
  const printed = onPath && await output(onPath, ['--version']);
  return printed?.split(/\s+/).at(-1) === version ? onPath : undefined;
}

/** The C compiler and OpenSSL headers that compiling worker-build needs on Linux. */
async function nativeTools() {
  if (process.platform !== 'linux') return;
  const openssl = process.env.OPENSSL_DIR || await output('pkg-config', ['--exists', 'openssl']) !== undefined;
  if (which('cc') && openssl) return;
  await systemPackages('A C compiler or OpenSSL (headers, pkg-config)', ['build-essential', 'pkg-config', 'libssl-dev'],
    'the packages called gcc, pkg-config (pkgconf) and openssl-devel (Fedora) or openssl (Arch)');
}

/**
 * wasm-bindgen in exactly the version of Cargo.lock. `file` is undefined where worker-build has it in its own
 * cache or can download it (it takes a release from GitHub, in seconds); compiling is the last resort.
 */
async function wasmBindgen() {
  const lock = path.join(root, 'Cargo.lock');
  const version = existsSync(lock) &&
    /name = "wasm-bindgen"\r?\nversion = "([^"]+)"/.exec(readFileSync(lock, 'utf8'))?.[1];
  if (!version) throw new Stop('Cargo.lock is missing or has no wasm-bindgen: `git checkout Cargo.lock`.');
  const chosen = process.env.WASM_BINDGEN_BIN || await findTool('wasm-bindgen', version);
  if (chosen) return { version, file: chosen };
  const release = wasmBindgenRelease();
  if (release) {
    const name = `wasm-bindgen-${version}-${release}`;
    const downloaded = path.join(workerBuildCache(), `wasm-bindgen-${release}-${version}`, `wasm-bindgen${exe}`);
    if (isExecutable(downloaded) ||
      await reachable(`https://github.com/wasm-bindgen/wasm-bindgen/releases/download/${version}/${name}.tar.gz`)) {
      return { version };
    }
    say('GitHub, which has wasm-bindgen ready to run, cannot be reached');
  }
  return { version, file: await ownTool('wasm-bindgen', 'wasm-bindgen-cli', version, 3) };
}

/** The name of wasm-bindgen's release for this machine; worker-build's own choice. */
function wasmBindgenRelease() {
  const cpu = { x64: 'x86_64', arm64: 'aarch64' }[process.arch];
  const system = { linux: 'unknown-linux-musl', darwin: 'apple-darwin', win32: 'pc-windows-msvc' }[process.platform];
  if (!cpu || !system) return undefined;
  return `${process.platform === 'win32' ? 'x86_64' : cpu}-${system}`;
}

function workerBuildCache() {
  const home = os.homedir();
  const base = {
    darwin: path.join(home, 'Library', 'Caches'),
    win32: process.env.LOCALAPPDATA ?? path.join(home, 'AppData', 'Local'),
  }[process.platform] ?? (process.env.XDG_CACHE_HOME || path.join(home, '.cache'));
  return path.join(base, 'worker-build');
}

async function reachable(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(5000) });
    await response.body?.cancel();
    return response.ok;
  } catch {
    return false;
  }
}

await main(import.meta, setup);
