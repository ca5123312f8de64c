// Runs programs as a user would, in the project's folder.

import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { ROOT } from "../../../testkit/processes.mjs";

// Runs a program to its end and returns its output. "python" is the one that `npm test` prepares, "node" also runs TypeScript.
export async function runProgram(program, args, env = {}) {
  if (program === "python") {
    program = process.env.REPRISE_PYTHON;
    if (!program) throw new Error("REPRISE_PYTHON is not set: run this through `npm test`");
  } else if (program === "node") {
    program = process.execPath;
    args = ["--experimental-strip-types", "--no-warnings", ...args];
  }
  const inherited = { PATH: process.env.PATH, HOME: process.env.HOME ?? path.sep };
  const { stdout } = await promisify(execFile)(program, args, { cwd: ROOT, env: { ...inherited, ...env } });
  return stdout;
}
