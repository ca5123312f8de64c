// workerd as a child process that never outlives this one.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { CommandError } from "./errors.js";

const require = createRequire(import.meta.url);

const KILL_AFTER_MS = 5_000;

// The shell starts a guard, and becomes workerd. The guard reads the pipe that is our end of its standard input: it gets a line
// after workerd has ended, and the end of the file if this process has died first, however that happened.
const GUARDED = `
exec 4<&0
( trap "" INT TERM HUP; read -r line || kill -KILL $$ ) <&4 4<&- 3>&- >/dev/null 2>&1 &
exec 4<&-
exec "$@" </dev/null
`;

/** The file of workerd, which npm has installed for this kind of machine. */
function findWorkerd() {
  try {
    return require("workerd").default;
  } catch (error) {
    const [why] = error.message.split("\n");
    throw new CommandError(
      `workerd is not installed for this machine: ${why}\nInstall the package again, with optional dependencies.`,
    );
  }
}

/**
 * Starts workerd: { pid, port, ended, stop }.
 *
 * - `port`: a promise of the port that it listens on, which fails if it ends before.
 * - `ended`: a promise of its exit code and signal, after its last line.
 *
 * @param {object} options
 * @param {string} options.config the file of its configuration
 * @param {Record<string, string | undefined>} options.env
 * @param {(line: string) => void} options.onLine a line of its standard output
 * @param {(line: string) => void} options.onErrorLine
 */
export function startWorkerd({ config, env, onLine, onErrorLine }) {
  const workerd = findWorkerd();
  // Ephemeral objects are experimental: see worker.js.
  const command = [workerd, "serve", "--experimental", "--control-fd=3", config];
  // On Windows, Node's children end with it: they are in a job object.
  const [program, ...args] =
    process.platform === "win32" ? command : ["/bin/sh", "-c", GUARDED, "reprise-guard", ...command];
  /** @type {import("node:child_process").SpawnOptions} */
  const options = {
    env,
    // A group of its own: Ctrl-C reaches this process alone, which then ends workerd in order.
    detached: process.platform !== "win32",
    stdio: ["pipe", "pipe", "pipe", "pipe"],
    windowsHide: true,
  };
  const child = spawned(program, args, options);
  const { stdin, stdout, stderr } = child;
  stdin.on("error", () => {}); // the guard may have been killed
  createInterface({ input: stdout }).on("line", onLine);
  createInterface({ input: stderr }).on("line", onErrorLine);
  child.once("exit", () => stdin.end("ended\n"));
  /** @type {Promise<{ code: number | null, signal: string | null }>} */
  const ended = new Promise((resolve) => {
    child.once("error", (error) => {
      onErrorLine(error.message);
      resolve({ code: null, signal: null });
    });
    child.once("close", (code, signal) => resolve({ code, signal }));
  });
  /** @type {Promise<number>} */
  const port = new Promise((resolve, reject) => {
    const control = /** @type {import("node:stream").Readable} */ (child.stdio[3]);
    createInterface({ input: control }).on("line", (line) => {
      const event = JSON.parse(line);
      if (event.event === "listen" && event.socket === "http") resolve(event.port);
    });
    ended.then(() => reject(new Error("workerd ended before it served")));
  });
  port.catch(() => {});
  return {
    pid: child.pid,
    port,
    ended,
    /** Lets it finish what it is doing, for some seconds at most. */
    async stop({ atOnce = false } = {}) {
      child.kill(atOnce ? "SIGKILL" : "SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), KILL_AFTER_MS);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** @param {string} program @param {string[]} args @param {import("node:child_process").SpawnOptions} options */
function spawned(program, args, options) {
  try {
    return spawn(program, args, options);
  } catch (error) {
    if (error.code === "E2BIG") throw new CommandError("All variables together are too long for this system.");
    throw error;
  }
}
