// The output of the command: lines for a person on a terminal, JSON lines otherwise.
import { dashboardLink } from "./open-dashboard.js";

/** @typedef {{ method: string, route: string, model: string | null, status: number | null, cache: string | null, reason: string | null, ms: number, input_tokens?: number, output_tokens?: number }} RequestLine */

const NUMBER = new Intl.NumberFormat("en-US");
const COLORS = { HIT: 32, COALESCED: 32, STALE: 33, UPDATING: 33, MISS: 36, EXPIRED: 36, REFRESH: 36, PARTIAL: 36 };
const RED = 31;
const DIM = 2;
const BOLD = 1;
/** Outcomes that did not wait for an upstream request of their own. */
const SAVED = ["HIT", "COALESCED", "STALE", "UPDATING"];

/** @param {Record<string, string | undefined>} env @param {boolean} isTerminal */
export const usesColor = (env, isTerminal) => isTerminal && !env.NO_COLOR && env.TERM !== "dumb";

/** @param {number} bytes */
export function formatBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), 4);
  return `${(bytes / 1000 ** power).toFixed(1)} ${["kB", "MB", "GB", "TB"][power - 1]}`;
}

/** @param {number} n @param {string} one */
const counted = (n, one) => `${NUMBER.format(n)} ${n === 1 ? one : `${one.replace(/y$/, "ie")}s`}`;

// Text from a client could steer the terminal.
/** @param {string} text */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is replaced
const printable = (text) => text.replace(/[\x00-\x1f\x7f-\x9f]/g, "?");

/**
 * The line of a request, if the text is one.
 *
 * @param {string} text
 * @returns {RequestLine | undefined}
 */
export function readRequestLine(text) {
  if (!text.startsWith("{")) return undefined;
  try {
    const line = JSON.parse(text);
    return typeof line.method === "string" && typeof line.route === "string" ? line : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Writes what happens.
 *
 * @param {object} options
 * @param {(text: string) => void} options.write
 * @param {boolean} options.json
 * @param {boolean} options.color
 * @param {boolean} options.quiet
 */
export function createOutput({ write, json, color, quiet }) {
  /** @type {Record<string, number>} */
  const outcomes = {};
  let requests = 0;
  let errors = 0;
  let savedTokens = 0;
  /** @param {string} text @param {number} code */
  const paint = (text, code) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
  /** @param {string} text */
  const line = (text) => write(`${text}\n`);
  /** @param {object} event */
  const event = (event) => line(JSON.stringify(event));
  return {
    /** @param {{ url: string, pid: number, dir?: string, entries?: number, bytes?: number, maxBytes?: number, adminToken?: string }} at */
    listening({ url, pid, dir, entries = 0, bytes = 0, maxBytes, adminToken }) {
      const baseUrl = `${url}/proxy`;
      // A token does not belong in a log.
      if (json) return event({ event: "listening", url, base_url: baseUrl, pid, dir: dir ?? null, entries, bytes });
      line(`\n  ${paint(baseUrl, BOLD)}   the base URL for your client\n`);
      const size = `${counted(entries, "entry")}, ${formatBytes(bytes)}${maxBytes ? ` of ${formatBytes(maxBytes)}` : ""}`;
      line(`  folder        ${dir === undefined ? "none: nothing is stored" : `${printable(dir)} (${size})`}`);
      line(`  dashboard     ${dashboardLink(url, adminToken)}`);
      line("  Ctrl-C ends it.\n");
    },

    /**
     * A line of the Worker: that of a request, which is returned, or another.
     *
     * @param {string} text
     */
    workerLine(text) {
      const request = readRequestLine(text);
      if (request) {
        requests += 1;
        if ((request.status ?? 500) >= 400) errors += 1;
        const outcome = request.cache ?? "NONE";
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
        savedTokens += tokensSaved(request);
        if (quiet) return request;
      }
      line(json ? text : request ? describe(request, paint) : printable(text));
      return request;
    },

    summary() {
      if (json) return event({ event: "summary", requests, errors, outcomes, saved_tokens: savedTokens });
      const saved = SAVED.reduce((sum, outcome) => sum + (outcomes[outcome] ?? 0), 0);
      const each = Object.entries(outcomes)
        .filter(([outcome]) => outcome !== "NONE")
        .sort(([, a], [, b]) => b - a)
        .map(([outcome, n]) => `${NUMBER.format(n)} ${outcome}`);
      line(`\n  ${[counted(requests, "request"), ...each].join(" · ")}`);
      if (requests === 0) return;
      const tokens = savedTokens > 0 ? ` and ${counted(savedTokens, "token")}` : "";
      line(`  ${counted(saved, "upstream request")}${tokens} saved, ${counted(errors, "error")}`);
    },
  };
}

/** The tokens that a request did not cost. @param {RequestLine} request */
const tokensSaved = ({ cache, input_tokens = 0, output_tokens = 0 }) =>
  cache !== null && SAVED.includes(cache) ? input_tokens + output_tokens : 0;

/** @param {RequestLine} request @param {(text: string, code: number) => string} paint */
function describe(request, paint) {
  const { method, route, model, status, cache, reason, ms } = request;
  const outcome = cache ?? "-";
  const failed = status === null || status >= 400;
  const path = route.replace(/^\/((proxy|v1|api\/v1)\/)?/, "");
  const parts = [
    paint(outcome.padEnd(9), COLORS[/** @type {keyof typeof COLORS} */ (outcome)] ?? DIM),
    `${NUMBER.format(ms)} ms`.padStart(9),
    method === "POST" ? printable(path) : `${method} ${printable(path)}`,
  ];
  if (model) parts.push(printable(model));
  if (failed) parts.push(paint(String(status ?? "no response"), RED));
  const tokens = tokensSaved(request);
  if (tokens > 0) parts.push(`saved ${counted(tokens, "token")}`);
  if (reason && !SAVED.includes(outcome)) parts.push(paint(printable(reason), DIM));
  return parts.join(" ");
}
