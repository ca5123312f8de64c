// Starts workerd with the Worker.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { extraCertificates } from "./certificates.js";
import { CommandError } from "./errors.js";
import { identityOf } from "./folder.js";
import { environmentName, WORKER_MODULES, workerdConfig } from "./workerd-config.js";
import { startWorkerd } from "./workerd-process.js";

/** @param {string} name */
const inPackage = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

const MODULES = WORKER_MODULES.map((name) => [name, inPackage(name)]);
const START_LIMIT_MS = 60_000;
const POLL_MS = 10;
const KEPT_LINES = 20;

/** The databases of the folder could not be opened or written. */
export class StoreFault extends CommandError {}

/**
 * @typedef {object} WorkerOptions
 * @property {string} host
 * @property {number} port 0: any free one
 * @property {Map<string, string>} variables
 * @property {import("./folder.js").Folder} [folder] without it, nothing is stored
 * @property {number} [maxBytes] of the folder's entries
 * @property {(line: string) => void} onLine a line of the Worker's log
 * @property {(line: string) => void} onErrorLine a line of the runtime's, while it serves
 * @property {Promise<unknown>} interrupted resolves when the start is not wanted any more
 */

/**
 * Starts workerd and waits until the Worker responds: { url, stop, ended, lastErrors }. Undefined if it was interrupted.
 *
 * @param {WorkerOptions} options
 */
export async function startWorker(options) {
  const { folder, host, interrupted } = options;
  const missing = MODULES.find(([, file]) => !existsSync(file));
  if (missing) throw new CommandError(`${missing[1]} is missing: run \`npm run build\` first.`);
  /** @type {string[]} */
  const errors = [];
  const lastErrors = () => errors.join("\n");
  let serves = false;
  let over = false; // the start, with or without success
  const { config, remove } = writeConfig(options, await extraCertificates(process.env));
  try {
    const workerd = startWorkerd({
      config,
      env: environment(options.variables),
      onLine: options.onLine,
      onErrorLine: (line) => {
        // Addresses in workerd's program.
        if (line === "" || line.startsWith("stack: ")) return;
        errors.push(line);
        if (errors.length > KEPT_LINES) errors.shift();
        if (serves) options.onErrorLine(line);
      },
    });
    const { ended, stop } = workerd;
    try {
      folder?.describe({ workerd: identityOf(workerd.pid) });
      const failed = ended.then(() => startFailure(options, lastErrors()));
      failed.catch(() => {}); // it is about the start alone
      const port = await Promise.race([workerd.port.catch(() => failed), interrupted]);
      if (port !== undefined) {
        const url = `http://${printedHost(host)}:${port}`;
        serves = await Promise.race([isServing(url, () => over), failed, interrupted.then(() => false)]);
        if (serves) return { url, ended, stop, lastErrors };
      }
    } finally {
      over = true;
      if (!serves) await stop({ atOnce: true });
    }
  } finally {
    remove();
  }
}

/**
 * Writes the configuration into a folder of its own, which is needed until workerd serves.
 *
 * @param {WorkerOptions} options
 * @param {string[]} certificates
 */
function writeConfig({ folder, maxBytes, variables, host, port }, certificates) {
  const at = mkdtempSync(path.join(os.tmpdir(), "reprise-"));
  const config = path.join(at, "reprise.capnp");
  const { entries, index, objects } = folder ?? {};
  const store = folder && { entries, index, objects, maxBytes, server: inPackage("cli/kv-server.js") };
  const names = [...variables.keys()];
  writeFileSync(
    config,
    workerdConfig({ folder: at, modules: MODULES, variables: names, host, port, store, certificates }),
  );
  return { config, remove: () => rmSync(at, { recursive: true, force: true }) };
}

/**
 * workerd's environment: ours, with the variables as they were read.
 *
 * @param {Map<string, string>} variables
 */
function environment(variables) {
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith(environmentName("")));
  const own = [...variables].map(([name, value]) => [environmentName(name), value]);
  return Object.fromEntries([...others, ...own]);
}

/** The host of a URL at which this machine reaches the address. @param {string} host */
function printedHost(host) {
  if (host === "0.0.0.0" || host === "*") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}

/**
 * Waits until the Worker responds. False if that is not wanted any more.
 *
 * @param {string} url
 * @param {() => boolean} isOver
 */
async function isServing(url, isOver) {
  for (const end = Date.now() + START_LIMIT_MS; Date.now() < end; await sleep(POLL_MS)) {
    if (await isOk(`${url}/healthz`)) return true;
    if (isOver()) return false;
  }
  throw new CommandError(`workerd listens on ${url} and does not respond.`);
}

/** Whether a URL responds with status 200. `fetch` takes longer to load than all the rest of a start. @param {string} url */
function isOk(url) {
  return new Promise((resolve) => {
    const request = http.get(url, { agent: false }, (response) => {
      response.resume();
      response.once("end", () => resolve(response.statusCode === 200));
      response.once("error", () => resolve(false));
    });
    request.once("error", () => resolve(false));
  });
}

/**
 * @param {WorkerOptions} options
 * @param {string} text the last lines of workerd
 * @returns {never}
 */
function startFailure({ host, port, folder }, text) {
  if (/address already in use/i.test(text)) {
    throw new CommandError(
      `Another program listens on ${host}:${port}. Choose another port with --port (0: any free one).`,
    );
  }
  if (folder && /sqlite|no space left|read-only file system|permission denied/i.test(text)) throw new StoreFault(text);
  const hint = isWithoutGlibc()
    ? "\nworkerd needs a Linux with glibc, and this one has another C library (Alpine has musl)."
    : "";
  throw new CommandError(`workerd did not start:\n${text}${hint}`);
}

function isWithoutGlibc() {
  if (process.platform !== "linux") return false;
  const { header } = /** @type {any} */ (process.report.getReport());
  return header.glibcVersionRuntime === undefined;
}
