// The command line, the file of variables and the environment, read into one value.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { UsageError } from "./errors.js";
import { environmentName, RESERVED_NAMES } from "./workerd-config.js";

export const HELP = `Usage: reprise [serve] [flags]

Serves a caching proxy for LLM APIs on this machine, and stores responses in a folder.

  --port N            the port (default 8787; 0: any free one)
  --host H            the address to listen on (default 127.0.0.1)
  --dir D             the folder of stored responses (default .reprise)
  --max-size SIZE     the size of that folder, such as 500MB or 1GiB; entries unused for longest are deleted first
  --upstream URL      the upstream of /proxy and /v1 (default https://api.openai.com/v1)
  --var NAME:VALUE    a variable, any number of times
  --env-file F        a file of variables, one NAME=value a line
  --json              log lines as JSON, also on a terminal
  --quiet             no line for each request
  --help, --version

Every variable of the documentation can be set. --var wins over the file, and the file over environment variables named
REPRISE_<VARIABLE>, such as REPRISE_CACHE_TTL. Pass secrets by the file or the environment: other users of this machine can see a
command line.
`;

const DEFAULT_PORT = 8787;
// What the contract names and this version does not have.
const LATER_COMMANDS = ["auto", "record", "replay", "check", "explain", "import", "export", "demo"];
const VARIABLE = /^[A-Z][A-Z0-9_]*$/;
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

/** @typedef {ReturnType<typeof readOptions>} Options */

/**
 * @param {string[]} args
 * @param {Record<string, string | undefined>} env
 */
export function readOptions(args, env) {
  const { values, positionals } = parse(args);
  const [command = "serve", ...rest] = positionals;
  if (LATER_COMMANDS.includes(command)) throw new UsageError(`This version has no command \`${command}\` yet.`);
  if (command !== "serve") throw new UsageError(`There is no command ${JSON.stringify(command)}.`);
  if (rest.length > 0) throw new UsageError(`\`serve\` takes no argument, and got ${JSON.stringify(rest[0])}.`);
  const variables = readVariables(values, env);
  const adminTokenIsNew = !variables.has("ADMIN_TOKEN");
  if (adminTokenIsNew) variables.set("ADMIN_TOKEN", randomBytes(24).toString("base64url"));
  return {
    help: values.help === true,
    version: values.version === true,
    port: readPort(values.port),
    host: readHost(values.host),
    dir: nonEmpty("--dir", values.dir ?? ".reprise"),
    maxBytes: values["max-size"] === undefined ? undefined : readSize(values["max-size"]),
    quiet: values.quiet === true,
    json: values.json === true,
    variables,
    adminTokenIsNew,
  };
}

/** @param {string[]} args */
function parse(args) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        port: { type: "string" },
        host: { type: "string" },
        dir: { type: "string" },
        var: { type: "string", multiple: true },
        "env-file": { type: "string" },
        upstream: { type: "string" },
        "max-size": { type: "string" },
        quiet: { type: "boolean" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "v" },
      },
    });
  } catch (error) {
    throw new UsageError(error.message.split(". To specify")[0]);
  }
}

/**
 * Every variable by name. Later sources replace earlier ones.
 *
 * @param {{ var?: string[], "env-file"?: string, upstream?: string }} values
 * @param {Record<string, string | undefined>} env
 */
function readVariables(values, env) {
  /** @type {Map<string, string>} */
  const variables = new Map();
  const prefix = environmentName("");
  for (const [name, value] of Object.entries(env)) {
    const variable = name.slice(prefix.length);
    if (name.startsWith(prefix) && value !== undefined && isVariable(variable)) variables.set(variable, value);
  }
  if (values["env-file"] !== undefined) {
    for (const [name, value] of readEnvFile(values["env-file"])) variables.set(name, value);
  }
  const given = (values.var ?? []).map(readVar);
  for (const [name, value] of given) variables.set(name, value);
  if (values.upstream !== undefined) {
    if (given.some(([name]) => name === "OPENAI_BASE_URL")) {
      throw new UsageError("--upstream and --var OPENAI_BASE_URL set the same: give one of them.");
    }
    variables.set("OPENAI_BASE_URL", readUpstream(values.upstream));
  }
  return variables;
}

/** @param {string} name */
const isVariable = (name) => VARIABLE.test(name) && !RESERVED_NAMES.includes(name);

/**
 * @param {string} name
 * @param {string} where
 */
function checkName(name, where) {
  if (!VARIABLE.test(name)) throw new UsageError(`${where}: ${JSON.stringify(name)} is not the name of a variable.`);
  if (RESERVED_NAMES.includes(name))
    throw new UsageError(`${where}: ${name} is the name of a binding, not of a variable.`);
}

/**
 * @param {string} text
 * @returns {[string, string]}
 */
function readVar(text) {
  const colon = text.indexOf(":");
  // The text may be a secret, so no message repeats it.
  if (colon < 0) throw new UsageError("--var expects NAME:VALUE.");
  const name = text.slice(0, colon);
  checkName(name, "--var");
  return [name, text.slice(colon + 1)];
}

/**
 * The variables of a file: NAME=value a line. Blank lines and lines that begin with # are left out; quotation marks around a value
 * are removed, and nothing else in it is changed.
 *
 * @param {string} file
 * @returns {[string, string][]}
 */
export function readEnvFile(file) {
  let text;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new UsageError(`--env-file: ${file} cannot be read (${error.code}).`);
  }
  return text
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .flatMap((line, index) => {
      const trimmed = line.trim();
      if (trimmed === "" || trimmed.startsWith("#")) return [];
      const where = `${file}, line ${index + 1}`;
      const equals = trimmed.indexOf("=");
      if (equals < 0) throw new UsageError(`${where}: expected NAME=value.`);
      const name = trimmed
        .slice(0, equals)
        .replace(/^export\s+/, "")
        .trim();
      checkName(name, where);
      const value = trimmed.slice(equals + 1).trim();
      const [, , inside] = /^(["'])(.*)\1$/.exec(value) ?? [];
      return [/** @type {[string, string]} */ ([name, inside ?? value])];
    });
}

/** @param {string | undefined} text */
function readPort(text) {
  if (text === undefined) return DEFAULT_PORT;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (!(port <= 65_535)) throw new UsageError("--port expects a number from 0 to 65535.");
  return port;
}

/** @param {string | undefined} text */
function readHost(text = "127.0.0.1") {
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

/**
 * @param {string} flag
 * @param {string} text
 */
function nonEmpty(flag, text) {
  if (text === "") throw new UsageError(`${flag} expects a value.`);
  return text;
}
