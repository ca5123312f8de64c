// The flags of every command, and how the value of each is read. The table of commands says which command takes which.
import { UsageError } from "./errors.js";

const UNITS = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/**
 * @typedef {object} Flag
 * @property {string} [value] the name of its value in the help; a flag without one is true or false
 * @property {string} help
 * @property {boolean} [many] whether it may be given any number of times; its value is then a list
 * @property {(text: string) => unknown} [read] the value of a text, or a UsageError; a flag without it has the text itself
 * @property {unknown} [otherwise] its value if it is not given
 */

/** In the order of the help. */
export const FLAGS = {
  port: { value: "N", help: "the port (default 8787; 0: any free one)", read: readPort, otherwise: 8787 },
  host: { value: "H", help: "the address to listen on (default 127.0.0.1)", read: readHost, otherwise: "127.0.0.1" },
  dir: {
    value: "D",
    help: "the folder of stored responses (default .reprise)",
    read: nonEmpty("--dir"),
    otherwise: ".reprise",
  },
  "max-size": {
    value: "SIZE",
    help: "the size of that folder, such as 500MB or 1GiB; entries unused for longest are deleted first",
    read: readSize,
  },
  upstream: {
    value: "URL",
    help: "the upstream of /proxy and /v1 (default https://api.openai.com/v1)",
    read: readUpstream,
  },
  var: { value: "NAME:VALUE", help: "a variable, any number of times", many: /** @type {const} */ (true) },
  "env-file": { value: "F", help: "a file of variables, one NAME=value a line" },
  open: { help: "open the dashboard in the browser" },
  json: { help: "log lines as JSON, also on a terminal" },
  quiet: { help: "no line for each request" },
  help: { help: "" },
  version: { help: "" },
};

/** @typedef {keyof typeof FLAGS} FlagName */
/**
 * @template F
 * @typedef {F extends { read: (text: string) => infer V } ? V : F extends { many: true } ? string[] : F extends { value: string } ? string
 *   : boolean} FlagValue
 */
/** @typedef {{ [Name in FlagName]?: FlagValue<(typeof FLAGS)[Name]> }} Flags the values of flags, by name */

/** What `parseArgs` has to know about each flag. */
export const PARSED = Object.fromEntries(
  Object.entries(/** @type {Record<string, Flag>} */ (FLAGS)).map(([name, { value, many }]) => [
    name,
    {
      type: /** @type {"string" | "boolean"} */ (value ? "string" : "boolean"),
      multiple: many === true,
      ...(name === "help" && { short: "h" }),
      ...(name === "version" && { short: "v" }),
    },
  ]),
);

/**
 * The values of flags, read from their texts.
 *
 * @param {Record<string, unknown>} texts
 * @returns {Flags}
 */
export function readFlags(texts) {
  const values = Object.entries(/** @type {Record<string, Flag>} */ (FLAGS)).map(
    ([name, { read, otherwise, many }]) => {
      const given = texts[name];
      if (given === undefined) return [name, otherwise ?? (many ? [] : undefined)];
      if (!read) return [name, given];
      return [name, Array.isArray(given) ? given.map(read) : read(String(given))];
    },
  );
  return Object.fromEntries(values);
}

/** @param {string} text */
function readPort(text) {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (!(port <= 65_535)) throw new UsageError("--port expects a number from 0 to 65535.");
  return port;
}

/** @param {string} text */
function readHost(text) {
  const host = text.replace(/^\[(.*)\]$/, "$1");
  if (!/^[\w.:-]+$/.test(host)) throw new UsageError("--host expects an address or a name.");
  return host;
}

/** @param {string} text */
function readSize(text) {
  const [, digits = "", unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const bytes = Math.floor(Number(digits) * (UNITS[unit.toUpperCase()] ?? Number.NaN));
  if (!(bytes > 0)) throw new UsageError("--max-size expects a size such as 500MB or 1GiB.");
  return bytes;
}

/** @param {string} text */
function readUpstream(text) {
  try {
    const { protocol } = new URL(text);
    if (protocol === "http:" || protocol === "https:") return text;
  } catch {
    // The message below says it.
  }
  throw new UsageError("--upstream expects a URL that begins with http:// or https://.");
}

/** @param {string} flag */
function nonEmpty(flag) {
  return (/** @type {string} */ text) => {
    if (text === "") throw new UsageError(`${flag} expects a value.`);
    return text;
  };
}
