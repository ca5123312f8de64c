// `reprise serve`: the folder, workerd, and what is written meanwhile.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CommandError } from "./errors.js";
import { Folder, identityOf } from "./folder.js";
import { dashboardLink, openDashboard } from "./open-dashboard.js";
import { createOutput, usesColor } from "./output.js";
import { environmentName, workerdConfig } from "./workerd-config.js";
import { startWorkerd } from "./workerd-process.js";

/** @param {string} name */
const inPackage = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

const MODULES = ["main.js", "index.js", "index_bg.wasm", "dashboard-page.js"].map((name) => [
  name,
  inPackage(`build/${name}`),
]);
const START_LIMIT_MS = 60_000;
const POLL_MS = 10;
const SWEEP_OBJECTS_MS = 600_000;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/;
const SIGNALS = /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]);

/** @param {string} message */
const note = (message) => process.stderr.write(`reprise: ${message}\n`);

/**
 * Serves until a signal ends it.
 *
 * @param {import("./options.js").Options} options
 */
export async function serve(options) {
  const missing = MODULES.find(([, file]) => !existsSync(file));
  if (missing) throw new CommandError(`${missing[1]} is missing: run \`npm run build\` first.`);
  const isTerminal = process.stdout.isTTY === true;
  const output = createOutput({
    write: (text) => process.stdout.write(text),
    json: options.flags.json || !isTerminal,
    color: usesColor(process.env, isTerminal),
    quiet: options.flags.quiet === true,
  });
  if (!LOOPBACK.test(options.flags.host)) {
    note(
      `${options.flags.host} can be reached from other machines. Set PROXY_TOKENS, so that not everybody may send requests.`,
    );
  }
  const folder = await openFolder(options.flags.dir);
  try {
    await run(options, folder, output);
  } finally {
    folder?.release();
  }
}

/** @param {string} dir */
async function openFolder(dir) {
  try {
    return await Folder.open(dir);
  } catch (error) {
    if (error instanceof CommandError || error.code === undefined) throw error;
    note(`${path.resolve(dir)} cannot be written (${error.code}): responses are not stored there.`);
    return undefined;
  }
}

/**
 * @param {import("./options.js").Options} options
 * @param {Folder | undefined} folder
 * @param {ReturnType<typeof createOutput>} output
 */
async function run(options, folder, output) {
  const errors = /** @type {string[]} */ ([]);
  const { config, remove } = writeConfig(options, folder);
  let sweep;
  const stop = interruption();
  try {
    const workerd = startWorkerd({
      config,
      env: environment(options.variables),
      onLine: output.workerLine,
      onErrorLine: (line) => {
        errors.push(line);
        if (errors.length > 20) errors.shift();
        if (served) process.stderr.write(`${line}\n`);
      },
    });
    let served = false;
    try {
      folder?.describe({ workerd: identityOf(workerd.pid) });
      const port = await Promise.race([workerd.port, stop.requested]).catch(() => startFailure(options, errors));
      if (port === undefined) return;
      const url = `http://${printedHost(options.flags.host)}:${port}`;
      await Promise.race([isServing(url), workerd.ended.then(() => startFailure(options, errors)), stop.requested]);
      remove();
      served = true;
      folder?.describe({ url });
      output.listening({
        url,
        pid: process.pid,
        dir: folder?.at,
        ...folder?.measure(),
        maxBytes: options.flags["max-size"],
        adminToken: options.adminTokenIsNew ? options.variables.get("ADMIN_TOKEN") : undefined,
      });
      if (options.flags.open) {
        const link = dashboardLink(url, options.variables.get("ADMIN_TOKEN"));
        if (!(await openDashboard(link)))
          note("There is no program that opens a browser. Open the dashboard's link yourself.");
      }
      sweep = setInterval(() => folder?.removeIdleObjects(), SWEEP_OBJECTS_MS);
      const ended = await Promise.race([workerd.ended, stop.requested]);
      if (ended) throw new CommandError(`workerd ended (${ended.signal ?? ended.code}).\n${errors.join("\n")}`);
    } finally {
      stop.again.then(() => workerd.stop({ atOnce: true }));
      await workerd.stop();
      if (served) output.summary();
    }
  } finally {
    clearInterval(sweep);
    stop.off();
    remove();
  }
}

/** Promises of the first signal that ends the command, and of the second. */
function interruption() {
  let count = 0;
  /** @type {(() => void)[]} */
  const resolvers = [];
  /** @type {Promise<undefined>[]} */
  const [requested, again] = [0, 1].map((n) => new Promise((resolve) => (resolvers[n] = () => resolve(undefined))));
  const onSignal = () => resolvers[count++]?.();
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return {
    requested,
    again,
    off() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
    },
  };
}

/**
 * Writes the configuration into a folder of its own, which is needed until workerd serves.
 *
 * @param {import("./options.js").Options} options
 * @param {Folder | undefined} folder
 */
function writeConfig(options, folder) {
  const at = mkdtempSync(path.join(os.tmpdir(), "reprise-"));
  const config = path.join(at, "reprise.capnp");
  const store = folder && {
    entries: folder.entries,
    index: folder.index,
    objects: folder.objects,
    maxBytes: options.flags["max-size"],
    server: inPackage("cli/kv-server.js"),
  };
  const { host, port } = options.flags;
  const variables = [...options.variables.keys()];
  writeFileSync(config, workerdConfig({ folder: at, modules: MODULES, variables, host, port, store }));
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

/** @param {string} url */
async function isServing(url) {
  for (const end = Date.now() + START_LIMIT_MS; Date.now() < end; await sleep(POLL_MS)) {
    const response = await fetch(`${url}/healthz`).catch(() => undefined);
    await response?.arrayBuffer();
    if (response?.ok) return;
  }
  throw new CommandError(`workerd listens on ${url} and does not respond.`);
}

/**
 * @param {import("./options.js").Options} options
 * @param {string[]} errors the last lines of workerd
 * @returns {never}
 */
function startFailure({ flags: { host, port } }, errors) {
  const text = errors.join("\n");
  if (/address already in use/i.test(text)) {
    throw new CommandError(
      `Another program listens on ${host}:${port}. Choose another port with --port (0: any free one).`,
    );
  }
  throw new CommandError(`workerd did not start:\n${text}`);
}
