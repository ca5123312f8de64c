// The folder of stored responses: its layout, its version, and the lock that keeps a second process out.
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CommandError } from "./errors.js";

const FORMAT = 1;
const WAIT_FOR_DEATH_MS = 10_000;
// Far longer than a response can be on its way.
const IDLE_OBJECT_MS = 3_600_000;

/**
 * @typedef {{ pid: number, started: string | null }} ProcessIdentity what names a process for ever: a number alone is reused
 * @typedef {ProcessIdentity & { url?: string, workerd?: ProcessIdentity }} Holder
 */

/**
 * When a process started, in the system's own spelling; null if there is none, or the system does not say.
 *
 * @param {number} pid
 */
function startOf(pid) {
  try {
    if (process.platform === "linux") {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      // The second field is a name in parentheses that may hold anything. The first after it is the state.
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (fields[0] === "Z") return null;
      const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
      return `${boot} ${fields[19]}`;
    }
    if (process.platform === "win32") return null;
    return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim() || null;
  } catch {
    return null;
  }
}

/**
 * @param {number} pid
 * @returns {ProcessIdentity}
 */
export const identityOf = (pid) => ({ pid, started: startOf(pid) });

/** @param {ProcessIdentity | undefined} identity */
function isAlive(identity) {
  if (!identity || !Number.isInteger(identity.pid) || identity.pid <= 0) return false;
  try {
    process.kill(identity.pid, 0);
  } catch (error) {
    if (error.code === "ESRCH") return false;
  }
  return identity.started === null || identity.started === startOf(identity.pid);
}

/** A folder that this process has locked. */
export class Folder {
  /** @param {string} at */
  constructor(at) {
    this.at = path.resolve(at);
    this.entries = path.join(this.at, "entries");
    this.index = path.join(this.at, "index");
    this.objects = path.join(this.at, "objects");
    this.coalescer = path.join(this.objects, "coalescer");
    this.lock = path.join(this.at, "lock");
    /** @type {Holder} */
    this.holder = identityOf(process.pid);
  }

  /**
   * Creates and locks the folder. A folder that cannot be written is an error of the file system, with its `code`.
   *
   * @param {string} at
   */
  static async open(at) {
    const folder = new Folder(at);
    mkdirSync(folder.at, { recursive: true });
    folder.#checkFormat();
    await folder.#take();
    try {
      folder.#prepare();
    } catch (error) {
      folder.release();
      throw error;
    }
    return folder;
  }

  #checkFormat() {
    const text = readIfThere(path.join(this.at, "format"));
    if (text === undefined || Number(text) === FORMAT) return;
    throw new CommandError(
      `${this.at} has format ${text.trim().slice(0, 20)}, and this version of reprise knows format ${FORMAT}. ` +
        "Use the version that wrote it, or another folder (--dir).",
    );
  }

  #prepare() {
    // Responses are private: they do not belong in a repository.
    writeIfMissing(path.join(this.at, ".gitignore"), "*\n");
    writeIfMissing(path.join(this.at, "format"), `${FORMAT}\n`);
    // These objects hold requests in flight, and there are none at the start.
    rmSync(this.coalescer, { recursive: true, force: true });
    for (const each of [this.entries, this.index, this.objects]) mkdirSync(each, { recursive: true });
    if (existsSync(this.#damaged)) this.removeIndex();
    this.#removeTemporaryFiles();
  }

  // Files that a killed process had begun to write. The runtime's names for it begin with a dot, and no entry's does.
  #removeTemporaryFiles() {
    for (const folder of [".", ...readdirSync(this.entries)]) {
      const at = path.join(this.entries, folder);
      if (!statSync(at).isDirectory()) continue;
      for (const name of readdirSync(at)) if (name.startsWith(".")) rmSync(path.join(at, name), { recursive: true });
    }
  }

  async #take() {
    const own = path.join(this.at, `lock.${process.pid}.${randomBytes(4).toString("hex")}`);
    writeFileSync(own, JSON.stringify(this.holder), { mode: 0o600 });
    try {
      while (!linked(own, this.lock)) {
        const text = readIfThere(this.lock);
        if (text === undefined) continue; // released just now
        const holder = /** @type {Holder | undefined} */ (parsed(text));
        if (isAlive(holder)) throw new CommandError(this.#heldBy(holder));
        await this.#endOrphan(holder?.workerd);
        this.#removeStale(text);
      }
    } finally {
      rmSync(own, { force: true });
    }
  }

  /** @param {Holder} holder */
  #heldBy({ pid, url }) {
    const who = `the process ${pid}${url ? `, which serves ${url}` : ""}`;
    return `${this.at} is in use by ${who}. Use that one, end it, or give another folder with --dir.`;
  }

  /**
   * A workerd whose command was killed may live for a moment.
   *
   * @param {ProcessIdentity | undefined} workerd
   */
  async #endOrphan(workerd) {
    // Without a start time the number may be another program's by now.
    if (workerd?.started === null) return;
    for (const end = Date.now() + WAIT_FOR_DEATH_MS; isAlive(workerd); await sleep(20)) {
      if (Date.now() > end) throw new CommandError(`The process ${workerd.pid} still uses ${this.at}. End it first.`);
      try {
        process.kill(workerd.pid, "SIGKILL");
      } catch {
        // It has ended meanwhile, or is not ours to end.
      }
    }
  }

  /**
   * Removes the lock of a dead process, unless another process has taken it meanwhile.
   *
   * @param {string} text what the stale lock holds
   */
  #removeStale(text) {
    const aside = `${this.lock}.stale.${process.pid}`;
    try {
      renameSync(this.lock, aside);
    } catch (error) {
      if (error.code === "ENOENT") return;
      throw error;
    }
    if (readIfThere(aside) !== text) linked(aside, this.lock);
    rmSync(aside, { force: true });
  }

  /**
   * Adds details of the holder to the lock. On a full disk the lock is unchanged, and still holds the folder.
   *
   * @param {Partial<Holder>} more
   */
  describe(more) {
    Object.assign(this.holder, more);
    const next = `${this.lock}.next`;
    try {
      writeFileSync(next, JSON.stringify(this.holder), { mode: 0o600 });
      renameSync(next, this.lock);
    } catch {
      rmSync(next, { force: true });
    }
  }

  release() {
    const holder = /** @type {Holder | undefined} */ (parsed(readIfThere(this.lock) ?? ""));
    if (holder?.pid === this.holder.pid && holder.started === this.holder.started) rmSync(this.lock, { force: true });
  }

  /** Removes the index, which the KV server then rebuilds. */
  removeIndex() {
    rmSync(this.index, { recursive: true, force: true });
    mkdirSync(this.index);
    rmSync(this.#damaged, { force: true });
  }

  /** Makes the next start remove the index. Returns whether this is the first call. */
  markIndex() {
    if (existsSync(this.#damaged)) return false;
    writeFileSync(this.#damaged, "");
    return true;
  }

  get #damaged() {
    return path.join(this.at, "index.damaged");
  }

  /** The number of entries and their bytes. */
  measure() {
    const size = { entries: 0, bytes: 0 };
    for (const folder of readdirSync(this.entries)) {
      for (const name of readdirSync(path.join(this.entries, folder))) {
        const file = statSync(path.join(this.entries, folder, name), { throwIfNoEntry: false });
        if (!file) continue;
        size.entries += 1;
        size.bytes += file.size;
      }
    }
    return size;
  }

  /**
   * Removes the files of coalescing objects that have been idle for long. The runtime keeps one for each namespace. While an object
   * runs, it has more files than the one.
   */
  removeIdleObjects(now = Date.now()) {
    const at = this.coalescer;
    let names;
    try {
      names = new Set(readdirSync(at));
    } catch {
      return; // there is no object yet
    }
    for (const name of names) {
      if (!/^[0-9a-f]{64}\.sqlite$/.test(name) || names.has(`${name}-wal`) || names.has(`${name}-shm`)) continue;
      const file = statSync(path.join(at, name), { throwIfNoEntry: false });
      if (file && now - file.mtimeMs > IDLE_OBJECT_MS) rmSync(path.join(at, name), { force: true });
    }
  }
}

/** @param {string} file */
function readIfThere(file) {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * Writes a file completely or not at all. A full disk leaves no empty file.
 *
 * @param {string} file
 * @param {string} text
 */
function writeIfMissing(file, text) {
  if (existsSync(file)) return;
  const next = `${file}.next`;
  writeFileSync(next, text);
  renameSync(next, file);
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Gives a file a second name, unless the name is taken.
 *
 * @param {string} file
 * @param {string} name
 */
function linked(file, name) {
  try {
    linkSync(file, name);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    if (error.code !== "EPERM" && error.code !== "ENOTSUP" && error.code !== "EOPNOTSUPP") throw error;
  }
  // A file system without links.
  try {
    writeFileSync(name, readFileSync(file), { flag: "wx", mode: 0o600 });
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}
