// Processes that the bench starts, and what they use: Linux' own accounting.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Stop } from '../scripts/lib.mjs';

/** A folder that is gone when we are, or when `remove` is called. */
export function temporary() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'reprise-bench-'));
  const remove = () => {
    process.off('exit', remove);
    rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', remove);
  return { folder, remove };
}

/** A program that serves at `url`, in a process group of its own, which ends with us at the latest. */
export function serve(name, program, args, url) {
  const began = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let log = '';
  child.stderr.on('data', (data) => { log = (log + data).slice(-10_000); });
  const ended = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', (error) => {
      log += error.message;
      resolve();
    });
  });
  let over = false;
  void ended.then(() => { over = true; });
  const kill = () => {
    try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ }
  };
  process.once('exit', kill);
  return {
    url,
    pid: child.pid,
    /** Waits for the first answer to a request. Milliseconds since the start of the process. */
    async ready(at = '/', init = {}) {
      for (;;) {
        const answer = await fetch(url + at, { ...init, signal: AbortSignal.timeout(10_000) })
          .then(async (response) => ({ ms: performance.now() - began, text: await response.text() }), () => undefined);
        if (answer) return answer.ms;
        if (over || performance.now() - began > 30_000) throw new Stop(`${name} did not start:\n${log}`);
        await sleep(1);
      }
    },
    async stop() {
      process.off('exit', kill);
      kill();
      await ended;
    },
  };
}

/** A file below /proc. */
const read = (...parts) => readFileSync(path.join('/proc', ...parts.map(String)), 'utf8');

/**
 * Processor time that a process and its children have used, in microseconds. What the kernel counts in nanoseconds for each
 * thread is taken where it tells; /proc/PID/stat has the same in hundredths of a second.
 */
export function cpu(pid) {
  return [pid, ...children(pid)].reduce((sum, one) => sum + own(one), 0);
}

function children(pid) {
  try {
    return read(pid, 'task', pid, 'children').split(' ').filter(Boolean);
  } catch {
    return []; // this kernel does not tell, or the process has ended: then there is no accounting either
  }
}

function own(pid) {
  try {
    const threads = readdirSync(`/proc/${pid}/task`).map((thread) => Number(read(pid, 'task', thread, 'schedstat').split(' ')[0]));
    const nanoseconds = threads.reduce((sum, one) => sum + one, 0);
    if (nanoseconds > 0) return nanoseconds / 1000;
  } catch { /* this kernel does not tell */ }
  const stat = existsSync(`/proc/${pid}/stat`) && read(pid, 'stat');
  if (!stat) throw new Stop(`Process ${pid} has ended while it was measured.`);
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** Memory that a process holds, in bytes. */
export const memory = (pid) => Number(/^VmRSS:\s+(\d+) kB$/m.exec(read(pid, 'status'))[1]) * 1024;
