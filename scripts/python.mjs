// Pythons with exactly what a requirements file says, outside the checkout and shared by every clone.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { cache, output, patiently, run, say, sha256, Stop, systemPackages, which } from './lib.mjs';

/** The program of a Python that has exactly `requirements` (a file); made once, saying `what` it is for. */
export async function python(requirements, what) {
  const home = path.join(cache, `python-${sha256(readFileSync(requirements)).slice(0, 12)}`);
  const windows = process.platform === 'win32';
  const program = path.join(home, windows ? 'Scripts\\python.exe' : 'bin/python');
  const whole = path.join(home, '.whole'); // written last: an interrupted installation is done again
  if (existsSync(whole) && existsSync(program)) return program;
  const base = await systemPython();
  say(`Installing ${what}`);
  rmSync(home, { recursive: true, force: true });
  mkdirSync(cache, { recursive: true });
  await run(base, ['-m', 'venv', home]);
  await patiently(() =>
    run(program, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r', requirements]));
  writeFileSync(whole, '');
  return program;
}

/** A Python of this machine that is new enough and can make others. */
export async function systemPython() {
  const found = await usablePython();
  if (found) return found;
  await systemPackages('Python 3.10 or newer with venv', ['python3', 'python3-venv'], 'https://www.python.org');
  const installed = await usablePython();
  if (!installed) throw new Stop('The Python of this system is too old: get 3.10 or newer from https://www.python.org.');
  return installed;
}

async function usablePython() {
  const usable = 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))';
  for (const name of ['python3', 'python']) {
    if (await output(name, ['-c', usable]) !== undefined) return which(name);
  }
  return undefined;
}
