// The packed command, installed into an empty folder, and what it does there.

import { spawn } from "node:child_process";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { execa } from "execa";
import { pack } from "../scripts/package.mjs";
import { send } from "./client.mjs";
import { ROOT, temporaryFolder } from "./processes.mjs";
import { waitFor, withTimeout } from "./wait.mjs";

const LIMIT_MS = 60_000;

/**
 * Packs the command and installs it into an empty folder: { folder, packed }. The one dependency is installed from node_modules, so
 * that no registry is needed.
 */
export async function install() {
  const { folder } = temporaryFolder();
  const packed = await pack(path.join(folder, "dist"));
  writeFileSync(path.join(folder, "package.json"), '{ "private": true }\n');
  const npm = ["install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
  await execa("npm", [...npm, packed.file, path.join(ROOT, "node_modules", "workerd")], { cwd: folder });
  return { folder, packed };
}

/** Runs the command to its end: { exitCode, stdout, stderr }. */
export const runCommand = (folder, args, { env = {} } = {}) =>
  execa(commandFile(folder), args, { cwd: folder, env, reject: false, timeout: LIMIT_MS });

const commandFile = (folder) => path.join(folder, "node_modules", ".bin", "reprise");

const children = new Set();
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/**
 * Starts the command: see `Running`.
 *
 * @param {string} folder where it is installed
 * @param {{ args?: string[], env?: Record<string, string>, npx?: boolean, within?: string[] }} [options] `within`: a program
 *   that runs the command, and its arguments
 */
export async function startCommand(folder, { args = [], env = {}, npx = false, within = [] } = {}) {
  const [program, ...before] = [...within, ...(npx ? ["npx", "reprise"] : [commandFile(folder)])];
  const child = spawn(program, [...before, "--port", "0", "--json", ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const running = new Running(child, path.join(folder, ".reprise"));
  children.add(child);
  child.once("close", () => children.delete(child));
  const listening = await Promise.race([running.event("listening"), running.ended.then(() => undefined)]);
  if (!listening) throw new Error(`the command ended:\n${running.stderr}`);
  return Object.assign(running, { url: listening.url, pid: listening.pid });
}

class Running {
  url;
  pid; // of the command itself, also under npx
  lines = []; // parsed
  stdout = "";
  stderr = "";
  ended; // a promise of { code, signal }
  #child;
  #dir;
  #listeners = new Set();

  constructor(child, dir) {
    this.#child = child;
    this.#dir = dir;
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.stdout += `${line}\n`;
      this.lines.push(JSON.parse(line));
      for (const wake of this.#listeners) wake();
      this.#listeners.clear();
    });
    child.stderr.on("data", (data) => (this.stderr += data));
    this.ended = new Promise((resolve) => child.once("close", (code, signal) => resolve({ code, signal })));
  }

  get requests() {
    return this.lines.filter((line) => line.event === undefined);
  }

  event(name) {
    return this.#until(() => this.lines.find((line) => line.event === name), `the event ${name}`);
  }

  /** The n-th log line of a request. It is written when the write to the store is done. */
  logged(n) {
    return this.#until(() => this.requests[n - 1], `log line ${n}`);
  }

  /** Sends a request and waits until the Worker has finished with it. */
  async settled(request) {
    const before = this.requests.length;
    const reply = await send(this.url, request);
    await this.logged(before + 1);
    return reply;
  }

  /** The process id of workerd. */
  get workerd() {
    return JSON.parse(readFileSync(path.join(this.#dir, "lock"), "utf8")).workerd.pid;
  }

  /** Stops reading what it writes, as `head` does. */
  closeOutput() {
    this.#child.stdout.destroy();
    this.#child.stderr.destroy();
  }

  /** Ends it as Ctrl-C does. */
  async stop(signal = "SIGINT") {
    process.kill(this.pid, signal);
    return withTimeout(this.ended, "the command to end");
  }

  /** Kills the command alone, and waits until workerd has ended too. */
  async kill() {
    const { workerd } = this;
    process.kill(this.pid, "SIGKILL");
    await withTimeout(this.ended, "the command to end");
    await waitFor(() => !isRunning(workerd), "workerd to end after its command was killed");
  }

  async #until(condition, what) {
    const wait = async () => {
      for (;;) {
        const result = condition();
        if (result) return result;
        await new Promise((resolve) => this.#listeners.add(resolve));
      }
    };
    return withTimeout(wait(), what, LIMIT_MS);
  }
}

/** Whether there is a process of this id. */
export function isRunning(pid) {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (error.code === "ESRCH") return false;
    throw error;
  }
  // In some containers nothing collects the exit status of orphans.
  if (process.platform !== "linux") return true;
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Every file below a folder. */
export const filesBelow = (folder) =>
  readdirSync(folder, { recursive: true })
    .map((name) => path.join(folder, String(name)))
    .filter((file) => statSync(file, { throwIfNoEntry: false })?.isFile());

/** The files of the entries in a folder of the command. */
export const entryFiles = (dir) => filesBelow(path.join(dir, "entries"));
