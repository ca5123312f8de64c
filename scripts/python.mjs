// Python environments with exactly what a requirements file lists, outside the checkout and shared by every clone.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { cache, findProgram, log, output, retry, run, sha256, systemPackages, UserError } from "./common.mjs";

/** The Python of an environment with exactly `requirements` (a file). It is made once; `what` says for what. */
export async function python(requirements, what) {
  const home = path.join(cache, `python-${sha256(readFileSync(requirements)).slice(0, 12)}`);
  const windows = process.platform === "win32";
  const program = path.join(home, windows ? "Scripts\\python.exe" : "bin/python");
  const whole = path.join(home, ".whole"); // written last: an interrupted installation is done again
  if (existsSync(whole) && existsSync(program)) return program;
  const base = await systemPython();
  log(`Installing ${what}`);
  rmSync(home, { recursive: true, force: true });
  mkdirSync(cache, { recursive: true });
  await run(base, ["-m", "venv", home]);
  await retry(() =>
    run(program, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]),
  );
  writeFileSync(whole, "");
  return program;
}

/** A Python of this machine that is new enough and can make environments. */
export async function systemPython() {
  const found = await usablePython();
  if (found) return found;
  await systemPackages("Python 3.10 or newer with venv", ["python3", "python3-venv"], "https://www.python.org");
  const installed = await usablePython();
  if (!installed)
    throw new UserError("The Python of this system is too old: get 3.10 or newer from https://www.python.org.");
  return installed;
}

async function usablePython() {
  const usable = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
  for (const name of ["python3", "python"]) {
    if ((await output(name, ["-c", usable])) !== undefined) return findProgram(name);
  }
  return undefined;
}
