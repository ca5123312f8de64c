#!/usr/bin/env -S node --
// The command `reprise`. Without the dashes, Node would take --env-file for its own flag.
import { readFileSync } from "node:fs";
import { COMMANDS } from "./commands.js";
import { CommandError } from "./errors.js";
import { helpText, readOptions } from "./options.js";

const version = () => JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version;

try {
  const options = readOptions(process.argv.slice(2), process.env);
  if (options.flags.help) process.stdout.write(helpText(options.command));
  else if (options.flags.version) process.stdout.write(`${version()}\n`);
  else {
    const run = await COMMANDS[options.command].load();
    const status = await run(options);
    process.exitCode = typeof status === "number" ? status : 0;
  }
} catch (error) {
  if (!(error instanceof CommandError)) throw error;
  process.stderr.write(`reprise: ${error.message}\n`);
  process.exitCode = error.status;
}
