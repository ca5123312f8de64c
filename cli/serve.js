// `reprise serve`: the folder, workerd, and what is written meanwhile.
import { statfsSync } from "node:fs";
import path from "node:path";
import { CommandError } from "./errors.js";
import { Folder } from "./folder.js";
import { interruption } from "./interruption.js";
import { dashboardLink, openDashboard } from "./open-dashboard.js";
import { createOutput, usesColor } from "./output.js";
import { StoreFault, startWorker } from "./start-worker.js";

const SEND_LIMIT_MS = 2_000;
const SWEEP_OBJECTS_MS = 600_000;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/;
const LITTLE_SPACE = 2 ** 20;
const DAMAGED = /SQLITE_(NOTADB|CORRUPT)/;

/** @param {string} message */
const note = (message) => process.stderr.write(`reprise: ${message}\n`);

/**
 * Serves until a signal ends it.
 *
 * @param {import("./options.js").Options} options
 */
export async function serve(options) {
  const { flags } = options;
  const isTerminal = process.stdout.isTTY === true;
  const output = createOutput({
    write: (text) => process.stdout.write(text),
    json: flags.json || !isTerminal,
    color: usesColor(process.env, isTerminal),
    quiet: flags.quiet === true,
  });
  if (!LOOPBACK.test(flags.host)) {
    note(
      `${flags.host} can be reached from other machines. Set PROXY_TOKENS, so that not everybody may send requests.`,
    );
  }
  const folder = await openFolder(flags.dir);
  const interrupted = interruption();
  try {
    await run(options, folder, output, interrupted);
  } finally {
    interrupted.off();
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
 * @param {Folder | undefined} opened
 * @param {ReturnType<typeof createOutput>} output
 * @param {ReturnType<typeof interruption>} interrupted
 */
async function run({ flags, variables, adminTokenIsNew }, opened, output, interrupted) {
  const warnOfFaults = storeWarning(opened);
  let isSending = false;
  /** @param {Folder | undefined} folder */
  const start = (folder) =>
    startWorker({
      host: flags.host,
      port: flags.port,
      variables,
      folder,
      maxBytes: flags["max-size"],
      onLine: (line) => {
        // No client sends the request by which `sendCounts` sends them.
        const isOurs = isSending && line.includes('"route":"/metrics"');
        if (!isOurs) warnOfFaults(output.workerLine(line)?.reason);
      },
      onErrorLine: (line) => {
        process.stderr.write(`${line}\n`);
        if (folder && DAMAGED.test(line) && folder.markIndex()) {
          note(`The index of ${folder.at} is damaged. The next start rebuilds it from the entries.`);
        }
      },
      interrupted: interrupted.once,
    });
  const { folder, worker } = await startAnyway(opened, start);
  if (!worker) return;
  let sweep;
  try {
    const { url } = worker;
    folder?.describe({ url });
    output.listening({
      url,
      pid: process.pid,
      dir: folder?.at,
      ...folder?.measure(),
      maxBytes: flags["max-size"],
      adminToken: adminTokenIsNew ? variables.get("ADMIN_TOKEN") : undefined,
    });
    if (flags.open && !(await openDashboard(dashboardLink(url, variables.get("ADMIN_TOKEN"))))) {
      note("There is no program that opens a browser. Open the dashboard's link yourself.");
    }
    sweep = setInterval(() => folder?.removeIdleObjects(), SWEEP_OBJECTS_MS);
    const ended = await Promise.race([worker.ended, interrupted.once]);
    isSending = !ended;
    if (isSending) await Promise.race([sendCounts(url, variables), interrupted.twice]);
    if (ended) throw new CommandError(`workerd ended (${ended.signal ?? ended.code}).\n${worker.lastErrors()}`);
  } finally {
    clearInterval(sweep);
    interrupted.twice.then(() => worker.stop({ atOnce: true }));
    await worker.stop();
    output.summary();
  }
}

/**
 * Lets the ledger have what has been counted. The Worker sends that before it answers for the ledger.
 *
 * @param {string} url
 * @param {Map<string, string>} variables
 */
async function sendCounts(url, variables) {
  const headers = { authorization: `Bearer ${variables.get("ADMIN_TOKEN")}` };
  await fetch(`${url}/metrics`, { headers, signal: AbortSignal.timeout(SEND_LIMIT_MS) }).catch(() => {});
}

/**
 * Starts with the folder, or without it if its databases cannot be used. A damaged index is rebuilt from the entries.
 *
 * @template T
 * @param {Folder | undefined} folder
 * @param {(folder: Folder | undefined) => Promise<T>} start
 * @returns {Promise<{ folder: Folder | undefined, worker: T }>}
 */
async function startAnyway(folder, start) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return { folder, worker: await start(folder) };
    } catch (error) {
      if (!(error instanceof StoreFault)) throw error;
      if (attempt === 1 && DAMAGED.test(error.message)) {
        note(`The index of ${folder.at} is damaged. It is rebuilt from the entries.`);
        folder.removeIndex();
        continue;
      }
      const [, why = "see above"] = /SQLITE_(FULL|READONLY|CANTOPEN|IOERR)/.exec(error.message) ?? [];
      if (why === "see above") note(error.message);
      note(
        `${folder.at} cannot be used (${isFull(folder.at) ? "no space left" : why}): responses are not stored there.`,
      );
      folder = undefined;
    }
  }
}

/**
 * Prints once why responses are not stored. The function takes the reason of each request's outcome.
 *
 * @param {Folder | undefined} folder
 */
function storeWarning(folder) {
  let said = false;
  return (/** @type {string | null | undefined} */ reason) => {
    if (said || !folder || reason !== "store-error") return;
    said = true;
    const why = isFull(folder.at) ? "no space is left there" : "the folder cannot be read or written";
    note(`A response could not be stored in ${folder.at}: ${why}. Requests are still served.`);
  };
}

/** Whether hardly anything fits on the disk of a folder. @param {string} at */
function isFull(at) {
  try {
    const { bavail, bsize } = statfsSync(at);
    return bavail * bsize < LITTLE_SPACE;
  } catch {
    return false;
  }
}
