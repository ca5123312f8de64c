// Runs the command that the command line names.
import { readFileSync } from "node:fs";
import { COMMANDS } from "./commands.js";
import { CommandError } from "./errors.js";
import { helpText, readOptions } from "./options.js";

const version = () => JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version;

// A reader of the output may end first, as `head` does. What is served does not depend on it.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error) => {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EPIPE") throw error;
  });
}

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
