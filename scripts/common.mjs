// Helpers of all scripts: paths, processes, messages. No dependencies: it runs before `npm ci`, on any
// Node >= 18.17.
import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, realpathSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
export const modules = path.join(root, "node_modules");
const bin = path.join(modules, ".bin");

/** Compiled tools and Python environments, by version: every clone shares them. */
export const cache = path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "reprise");

export const log = (line) => console.log(`[reprise] ${line}`);

/** An error that is explained to the user: a message instead of a stack trace, and an exit code. */
export class UserError extends Error {
  constructor(message, code = 1) {
    super(message);
    this.code = code;
  }
}

/** Runs `task` if its module is the program, not if it is imported. */
export async function main(meta, task) {
  if (!process.argv[1] || fileURLToPath(meta.url) !== realpathSync(process.argv[1])) return;
  try {
    await task();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    if (error.message) console.error(`[reprise] ${error.message}`);
    process.exitCode = error.code;
  }
}

// `npm run` puts node_modules/.bin first; this is the PATH of the machine itself. rustup's folder is last, for
// shells that were opened before Rust was installed.
const systemPath = [
  ...(process.env.PATH ?? "").split(path.delimiter).filter((dir) => path.resolve(dir) !== bin),
  path.join(process.env.CARGO_HOME || path.join(os.homedir(), ".cargo"), "bin"),
].join(path.delimiter);

/** @type {NodeJS.ProcessEnv} */
export const systemEnv = { ...process.env, PATH: systemPath };

/**
 * The environment of tools: the Node of node_modules first, and nothing sent to or fetched from the internet.
 *
 * @type {NodeJS.ProcessEnv}
 */
export const toolEnv = {
  ...systemEnv,
  PATH: bin + path.delimiter + systemPath,
  WRANGLER_SEND_METRICS: "false",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  CARGO_NET_RETRY: process.env.CARGO_NET_RETRY ?? "10",
};

/** The path of a program on the machine's PATH, or undefined. */
export function findProgram(program) {
  for (const dir of systemPath.split(path.delimiter)) {
    for (const extension of process.platform === "win32" ? [".exe", ".cmd"] : [""]) {
      const file = path.join(dir, program + extension);
      if (isExecutable(file)) return file;
    }
  }
  return undefined;
}

/** Chromium or Chrome; undefined if there is none. `REPRISE_CHROMIUM` names it where it is not on the PATH. */
export const findBrowser = () =>
  process.env.REPRISE_CHROMIUM ??
  ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"].map(findProgram).find(Boolean);

export function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The output of a program, trimmed; undefined if it is missing or fails. */
export function output(program, args, { env = systemEnv, cwd = root } = {}) {
  return new Promise((resolve) => {
    execFile(program, args, { cwd, env, maxBuffer: 2 ** 25 }, (error, stdout) =>
      resolve(error ? undefined : stdout.trim()),
    );
  });
}

/** Runs a program on our terminal, forwards signals to it, and throws its exit code if it fails. */
export function run(program, args, { env = toolEnv, cwd = root, silent = false, shell = false } = {}) {
  return /** @type {Promise<void>} */ (
    new Promise((resolve, reject) => {
      const child = spawn(program, args, { cwd, env, shell, stdio: "inherit" });
      const forward = (signal) => child.kill(signal);
      const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
      for (const signal of signals) process.on(signal, forward);
      const settle = (code, why) => {
        for (const signal of signals) process.off(signal, forward);
        if (code === 0) resolve();
        else reject(new UserError(silent ? "" : `${path.basename(program)} ${args[0] ?? ""}: ${why}`, code));
      };
      child.once("error", (error) => settle(1, error.message));
      child.once("exit", (code, signal) =>
        code === null ? settle(128 + os.constants.signals[signal], signal) : settle(code, `exit code ${code}`),
      );
    })
  );
}

/** Runs what depends on a registry up to four times, with longer and longer pauses. */
export async function retry(task) {
  for (const seconds of [5, 20, 60]) {
    try {
      return await task();
    } catch (error) {
      if (!(error instanceof UserError) || error.code > 128) throw error; // a bug of ours, or Ctrl-C
      log(`${error.message}; trying again in ${seconds} seconds`);
      await sleep(seconds * 1000);
    }
  }
  return task();
}

/** Installs packages of the system if this is root on a Debian, or else says how to. */
export async function systemPackages(what, debian, elsewhere) {
  if (process.getuid?.() !== 0 || !findProgram("apt-get")) {
    throw new UserError(
      `${what} is missing. Install it and run this again.\n` +
        `  Debian, Ubuntu:  sudo apt-get install -y ${debian.join(" ")}\n  elsewhere:       ${elsewhere}`,
    );
  }
  log(`${what} is missing: installing ${debian.join(", ")} with apt-get (about a minute)`);
  const env = { ...systemEnv, DEBIAN_FRONTEND: "noninteractive" };
  await retry(() => run("apt-get", ["update", "-q"], { env }));
  await retry(() => run("apt-get", ["install", "-q", "-y", "--no-install-recommends", ...debian], { env }));
}

export const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex");
};

/** Whether wrangler runs on this Node, which is the machine's. */
export const isNodeRecent = () => {
  const [major, minor] = process.versions.node.split(".").map(Number);
  return major > 22 || (major === 22 && minor >= 12);
};

/** The Node that runs wrangler and the tests: that of node_modules, or else the machine's. */
export function node() {
  const own = path.join(modules, "node", "bin", process.platform === "win32" ? "node.exe" : "node");
  if (isExecutable(own)) return own;
  if (isNodeRecent()) return process.execPath;
  throw new UserError(
    "wrangler needs Node >= 22.12, and the one that npm should have installed is missing. " +
      "Allow its install script (`npm rebuild node --ignore-scripts=false`) or install a newer Node.",
  );
}

/**
 * Program and arguments of a wrangler command.
 *
 * @returns {[string, string[]]}
 */
export const wrangler = (...args) => [node(), [path.join(modules, "wrangler", "bin", "wrangler.js"), ...args]];
