// The CPU time and memory of processes, as Linux accounts them.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { UserError } from "../scripts/common.mjs";

/** A file below /proc. */
const readProc = (...parts) => readFileSync(path.join("/proc", ...parts.map(String)), "utf8");

/**
 * CPU time that a process and its children have used, in microseconds. The kernel's nanoseconds per thread are used where it
 * has them; /proc/PID/stat has the same in hundredths of a second.
 */
export function cpuMicroseconds(pid) {
  return [pid, ...children(pid)].reduce((sum, one) => sum + ownCpuMicroseconds(one), 0);
}

function children(pid) {
  try {
    return readProc(pid, "task", pid, "children").split(" ").filter(Boolean);
  } catch {
    return []; // this kernel has no such file, or the process has ended: then there is no accounting either
  }
}

function ownCpuMicroseconds(pid) {
  try {
    const threads = readdirSync(`/proc/${pid}/task`).map((thread) =>
      Number(readProc(pid, "task", thread, "schedstat").split(" ")[0]),
    );
    const nanoseconds = threads.reduce((sum, one) => sum + one, 0);
    if (nanoseconds > 0) return nanoseconds / 1000;
  } catch {
    // this kernel has no such file
  }
  const stat = existsSync(`/proc/${pid}/stat`) && readProc(pid, "stat");
  if (!stat) throw new UserError(`Process ${pid} ended while it was measured.`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** Resident memory of a process, in bytes. */
export const residentBytes = (pid) => Number(/^VmRSS:\s+(\d+) kB$/m.exec(readProc(pid, "status"))[1]) * 1024;
