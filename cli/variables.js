// The Worker's variables, from flags, a file and the environment.
import { readFileSync } from "node:fs";
import { UsageError } from "./errors.js";
import { environmentName, RESERVED_NAMES } from "./workerd-config.js";

const VARIABLE = /^[A-Z][A-Z0-9_]*$/;

/**
 * Every variable by name. Later sources replace earlier ones.
 *
 * @param {import("./flags.js").Flags} flags
 * @param {Record<string, string | undefined>} env
 */
export function readVariables(flags, env) {
  /** @type {Map<string, string>} */
  const variables = new Map();
  const prefix = environmentName("");
  for (const [name, value] of Object.entries(env)) {
    const variable = name.slice(prefix.length);
    if (name.startsWith(prefix) && value !== undefined && isVariable(variable)) variables.set(variable, value);
  }
  if (flags["env-file"] !== undefined) {
    for (const [name, value] of readEnvFile(flags["env-file"])) variables.set(name, value);
  }
  const given = (flags.var ?? []).map(readVar);
  for (const [name, value] of given) variables.set(name, value);
  if (flags.upstream !== undefined) {
    if (given.some(([name]) => name === "OPENAI_BASE_URL")) {
      throw new UsageError("--upstream and --var OPENAI_BASE_URL set the same: give one of them.");
    }
    variables.set("OPENAI_BASE_URL", flags.upstream);
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
