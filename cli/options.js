// The command line and the environment, read into one value.
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { COMMANDS, defaultCommand } from "./commands.js";
import { UsageError } from "./errors.js";
import { FLAGS, PARSED, readFlags } from "./flags.js";
import { readVariables } from "./variables.js";

/**
 * @typedef {object} Options
 * @property {string} [command] the name of a row of COMMANDS; with --help, what was named
 * @property {import("./flags.js").Flags} flags
 * @property {string[]} operands
 * @property {string[]} [program] what follows `--`: a program and its arguments
 * @property {Map<string, string>} variables the Worker's variables
 * @property {boolean} adminTokenIsNew whether ADMIN_TOKEN was made for this run
 */

/**
 * @param {string[]} args
 * @param {Record<string, string | undefined>} env
 * @returns {Options}
 */
export function readOptions(args, env) {
  const { values, tokens } = parse(args);
  const end = tokens.find(({ kind }) => kind === "option-terminator")?.index ?? args.length;
  const words = tokens.flatMap((token) => (token.kind === "positional" && token.index < end ? [token.value] : []));
  const program = end < args.length ? args.slice(end + 1) : undefined;
  const named = words.shift();
  // Help comes before any complaint about the rest.
  if (values.help || values.version) {
    const flags = { help: values.help === true, version: values.version === true };
    return { command: named, flags, operands: words, program, variables: new Map(), adminTokenIsNew: false };
  }
  const command = named ?? defaultCommand({ runs: program !== undefined, env });
  const given = tokens.flatMap((token) => (token.kind === "option" ? [token.name] : []));
  check(command, given, words, program);
  const flags = readFlags(values);
  const variables = readVariables(flags, env);
  const adminTokenIsNew = !variables.has("ADMIN_TOKEN");
  if (adminTokenIsNew) variables.set("ADMIN_TOKEN", randomBytes(24).toString("base64url"));
  return { command, flags, operands: words, program, variables, adminTokenIsNew };
}

/** @param {string[]} args */
function parse(args) {
  try {
    return parseArgs({ args, allowPositionals: true, tokens: true, options: PARSED });
  } catch (error) {
    throw new UsageError(error.message.split(". To specify")[0]);
  }
}

/**
 * Checks that the command is one, and takes what is given.
 *
 * @param {string} name
 * @param {string[]} flags
 * @param {string[]} operands
 * @param {string[] | undefined} program
 */
function check(name, flags, operands, program) {
  if (!Object.hasOwn(COMMANDS, name)) {
    throw new UsageError(`There is no command ${JSON.stringify(name)}. There is ${Object.keys(COMMANDS).join(", ")}.`);
  }
  const command = COMMANDS[name];
  const { least, most, name: operand } = command.operands ?? { least: 0, most: 0, name: "" };
  const foreign = flags.find((flag) => !command.flags.some((own) => own === flag));
  if (foreign !== undefined) throw new UsageError(`\`${name}\` takes no --${foreign}.`);
  if (operands.length > most) {
    const hint = command.runs && program === undefined ? ` The program to run follows --: ${command.usage}` : "";
    const count = most === 0 ? "no argument" : `${most === 1 ? "one" : `at most ${most}`} ${operand}`;
    throw new UsageError(`\`${name}\` takes ${count}, and got ${JSON.stringify(operands[most])}.${hint}`);
  }
  if (operands.length < least) throw new UsageError(`\`${name}\` needs ${operand}: ${command.usage}`);
  if (command.runs && !program?.length) {
    throw new UsageError(`\`${name}\` needs a program to run: ${command.usage}`);
  }
  if (!command.runs && program) throw new UsageError(`\`${name}\` runs no program: nothing may follow --.`);
}

/**
 * The text of `--help`, for one command or for all.
 *
 * @param {string} [name]
 */
export function helpText(name) {
  const command = name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  const commands = command ? [command] : Object.values(COMMANDS);
  const flags = Object.entries(FLAGS).filter(([flag]) =>
    commands.some((each) => each.flags.some((own) => own === flag)),
  );
  const usage = commands.map((each) => [each.usage, each.summary]);
  const described = flags.map(([flag, row]) => [`--${flag}${"value" in row ? ` ${row.value}` : ""}`, row.help]);
  const variables = flags.some(([flag]) => flag === "var") ? VARIABLES_HELP : "";
  return `A caching proxy for LLM APIs on this machine.

${columns(usage)}

${columns([...described, ["--help, --version", ""]])}
${variables}`;
}

const VARIABLES_HELP = `
Every variable of the documentation can be set. --var wins over the file, and the file over environment variables named
REPRISE_<VARIABLE>, such as REPRISE_CACHE_TTL. Pass secrets by the file or the environment: other users of this machine can see a
command line.
`;

/** @param {string[][]} rows */
function columns(rows) {
  const width = Math.max(...rows.map(([first]) => first.length)) + 3;
  return rows.map(([first, second]) => `  ${first.padEnd(width)}${second}`.trimEnd()).join("\n");
}
