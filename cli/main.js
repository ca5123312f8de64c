#!/usr/bin/env -S node --
// The command `reprise`. Without the dashes, Node would take --env-file for its own flag.
import { readFileSync } from "node:fs";
import { CommandError } from "./errors.js";
import { HELP, readOptions } from "./options.js";
import { serve } from "./serve.js";

const version = () => JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version;

try {
  const options = readOptions(process.argv.slice(2), process.env);
  if (options.help) process.stdout.write(HELP);
  else if (options.version) process.stdout.write(`${version()}\n`);
  else await serve(options);
} catch (error) {
  if (!(error instanceof CommandError)) throw error;
  process.stderr.write(`reprise: ${error.message}\n`);
  process.exitCode = error.status;
}
