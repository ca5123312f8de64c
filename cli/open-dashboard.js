// Opens the dashboard in the browser, logged in.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

/** How long a browser may take to read the file. */
const KEEP_MS = 60_000;

/**
 * The link to the dashboard. With a token it logs in by itself; a fragment is not sent over the network.
 *
 * @param {string} url of the proxy
 * @param {string} [token]
 */
export const dashboardLink = (url, token) =>
  `${url}/dashboard${token === undefined ? "" : `#token=${encodeURIComponent(token)}`}`;

/** @type {Partial<Record<NodeJS.Platform, [string, string[]]>>} */
const OPENERS = { darwin: ["open", []], win32: ["rundll32", ["url.dll,FileProtocolHandler"]] };

/**
 * Opens a link that holds a secret. Other users of this machine see the arguments of processes, so the browser is given a private
 * file that leads to the link.
 *
 * @param {string} link
 * @param {{ env?: NodeJS.ProcessEnv, platform?: NodeJS.Platform }} [system]
 * @returns {Promise<boolean>} whether a browser was started
 */
export async function openDashboard(link, { env = process.env, platform = process.platform } = {}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "reprise-open-"));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  const file = path.join(folder, "dashboard.html");
  writeFileSync(file, page(link), { mode: 0o600 });
  process.once("exit", remove);
  const [program, args] = OPENERS[platform] ?? ["xdg-open", []];
  const isStarted = await new Promise((resolve) => {
    const opener = spawn(program, [...args, pathToFileURL(file).href], { env, stdio: "ignore", detached: true });
    opener.once("error", () => resolve(false));
    opener.once("spawn", () => resolve(true));
    opener.unref();
  });
  if (isStarted) setTimeout(remove, KEEP_MS).unref();
  else remove();
  return isStarted;
}

/** @param {string} link */
const page = (link) => {
  const quoted = link.replace(/[&"<>]/g, (character) => `&#${character.charCodeAt(0)};`);
  return `<!doctype html><meta charset="utf-8"><title>Reprise</title><meta http-equiv="refresh" content="0;url=${quoted}"><a href="${quoted}">Reprise</a>\n`;
};
