// The commands. A new one is a row here and a file that the row loads.

/** @typedef {import("./options.js").Options} Options */
/** @typedef {import("./flags.js").FlagName} FlagName */

/**
 * @typedef {object} Command
 * @property {string} usage how it is called
 * @property {string} summary a line of the help
 * @property {FlagName[]} flags the flags that it takes, beside --help and --version
 * @property {{ name: string, least: number, most: number }} [operands] the words after its name; none if it is missing
 * @property {boolean} [runs] whether it runs a program that follows `--`
 * @property {() => Promise<(options: Options) => Promise<number | void>>} load gives what carries it out, whose result is the exit
 *   status (0 if there is none)
 */

/** @type {FlagName[]} */
const VARIABLES = ["upstream", "var", "env-file"];

/** @type {Record<string, Command>} */
export const COMMANDS = {
  serve: {
    usage: "reprise [serve] [flags]",
    summary: "serve on this machine, and store responses in a folder",
    flags: ["port", "host", "dir", "max-size", ...VARIABLES, "open", "json", "quiet"],
    load: async () => (await import("./serve.js")).serve,
  },
  demo: {
    usage: "reprise demo",
    summary: "send requests twice to a simulated API, without a key: the second time they are hits",
    flags: [],
    load: async () => (await import("./demo.js")).demo,
  },
};

/**
 * The command where none is named.
 *
 * @param {object} _given
 * @param {boolean} _given.runs whether a program follows `--`
 * @param {Record<string, string | undefined>} _given.env
 */
export const defaultCommand = (_given) => "serve";
