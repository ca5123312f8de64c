// Programs that tests and measurements start. Each ends with this process at the latest.

import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import getPort from "get-port";
import { waitFor, withTimeout } from "./wait.mjs";

export const ROOT = fileURLToPath(new URL("..", import.meta.url));

const KILL_AFTER_MS = 10_000;
const LOG_LENGTH = 20_000;

/** A TCP port on the loopback interface that nothing uses. */
export const freePort = () => getPort({ host: "127.0.0.1" });

/** A folder that is removed by `remove`, or when this process exits. */
export function temporaryFolder(prefix = "reprise-") {
  const folder = mkdtempSync(path.join(os.tmpdir(), prefix));
  const remove = () => {
    process.off("exit", remove);
    rmSync(folder, { recursive: true, force: true });
  };
  process.once("exit", remove);
  return { folder, remove };
}

/**
 * Starts a program that runs until it is stopped: { pid, log, ended, ready, stop }.
 *
 * - `log()`: the end of what it has written.
 * - `ready(condition)`: resolves when the condition, polled, is truthy; fails if the program has ended. `condition` gets `log`.
 * - `stop()`: ends it and waits for that.
 *
 * @param {string} program
 * @param {string[]} [args]
 * @param {import("execa").Options & { name?: string }} [options]
 */
export function startProcess(program, args = [], { name = path.basename(program), ...options } = {}) {
  let written = "";
  /** @type {any} Also Node's child process; its streams are sockets. */
  const child = execa(program, args, {
    stdin: "ignore",
    reject: false,
    buffer: false,
    cleanup: true,
    forceKillAfterDelay: KILL_AFTER_MS,
    ...options,
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (data) => (written = (written + data).slice(-LOG_LENGTH)));
    stream?.unref?.(); // a test file that fails before its first test must end
  }
  child.unref?.();
  let over = false;
  const ended = child.then((result) => {
    over = true;
    return result;
  });
  return {
    pid: child.pid,
    log: () => written,
    ended,
    /**
     * @param {(log: string) => any} condition
     * @param {{ what?: string, limitMs?: number, pollMs?: number }} [limits]
     */
    async ready(condition, { what = `${name} to start`, ...limits } = {}) {
      const isReady = async () => {
        if (over) {
          const { exitCode, signal, code } = await ended;
          throw new Error(`${name} ended (${code ?? signal ?? exitCode}):\n${written}`);
        }
        return condition(written);
      };
      try {
        return await waitFor(isReady, what, limits);
      } catch (error) {
        if (!error.message.includes(written)) error.message += `\n${written}`;
        throw error;
      }
    },
    async stop(signal = "SIGTERM") {
      if (!over) child.kill(signal);
      await withTimeout(ended, `${name} to end`);
    },
  };
}

/**
 * The status and the text that a URL responds with; undefined if it does not respond.
 *
 * @param {string} url
 * @param {RequestInit} [init]
 */
export const responseOf = (url, init = {}) =>
  fetch(url, { ...init, signal: AbortSignal.timeout(10_000) }).then(
    async (response) => [response.status, await response.text()],
    () => undefined,
  );

/**
 * Retries `start` if the port that it chose was taken by another program before it was used.
 *
 * @template T
 * @param {(port: number) => Promise<T>} start
 * @returns {Promise<T>}
 */
export async function onFreePort(start) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await start(await freePort());
    } catch (error) {
      if (attempt === 5 || !/address already in use|EADDRINUSE/i.test(error.message)) throw error;
    }
  }
}
