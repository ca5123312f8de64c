// The KV namespace of `reprise`, as a Worker of its own. It maps the runtime's KV protocol onto a folder: one file for each
// entry, which the runtime's disk service writes to a temporary file and renames. The first line of a file is a JSON header.
// The files are the truth. The Durable Object `EntryIndex` finds what to sweep, to evict and to list.
import { DurableObject } from "cloudflare:workers";

/** @typedef {{ name: string, expires: number | null, metadata?: unknown }} Header */
/** @typedef {{ DISK: Fetcher, INDEX: DurableObjectNamespace<EntryIndex>, MAX_BYTES?: string }} Env */

const MAX_VALUE_BYTES = 25 * 2 ** 20; // as KV
const MAX_FILE_NAME = 200; // file systems allow 255 bytes
const PAGE = 1000; // names in a list, as KV
const MAX_HEADER_BYTES = 16_384; // names and metadata are shorter
const NEWLINE = 10;
const TOUCH_AFTER_MS = 5_000;
const SWEEP_BATCH = 100;
const INSPECT_BATCH = 100;
const EVICT_BATCH = 16;
const RETRY_SWEEP_MS = 60_000;
const MIN_ALARM_MS = 1_000; // entries that expire at nearly the same time are swept together

/** @param {string} name */
const fileName = (name) =>
  [...new TextEncoder().encode(name)]
    .map((byte) => {
      const character = String.fromCharCode(byte);
      // Other characters mean something in a path or a URL. Some file systems ignore case.
      return /[a-z0-9_-]/.test(character) ? character : `=${byte.toString(16).padStart(2, "0")}`;
    })
    .join("");

// The last characters of a name are those of a digest, so folders are of equal size.
/** @param {string} file */
const folderOf = (file) => file.slice(-2);
/** @param {string} name */
const urlOf = (name) => `http://disk/${folderOf(fileName(name))}/${fileName(name)}`;

/**
 * The parts of a file; undefined if it is not an entry of this name.
 *
 * @param {Uint8Array} bytes
 * @param {string} name
 * @returns {{ header: Header, value: Uint8Array } | undefined}
 */
function parse(bytes, name) {
  const end = bytes.indexOf(NEWLINE);
  if (end < 0) return undefined;
  try {
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    return header.name === name ? { header, value: bytes.subarray(end + 1) } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The entry of a name on disk. The file may be there although the entry is not readable.
 *
 * @param {Fetcher} disk
 * @param {string} name
 */
async function read(disk, name) {
  const response = await disk.fetch(urlOf(name));
  if (response.status === 404) {
    await response.body?.cancel();
    return undefined;
  }
  if (!response.ok) throw new Error(`reading an entry: status ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return { size: bytes.length, ...parse(bytes, name) };
}

/**
 * The header of a name's file, and the size of the file.
 *
 * @param {Fetcher} disk
 * @param {string} name
 */
async function readHeader(disk, name) {
  const response = await disk.fetch(urlOf(name));
  if (response.status === 404) {
    await response.body?.cancel();
    return undefined;
  }
  if (!response.ok || !response.body) throw new Error(`reading an entry: status ${response.status}`);
  const size = Number(response.headers.get("content-length"));
  let start = new Uint8Array();
  const reader = response.body.getReader();
  while (!start.includes(NEWLINE) && start.length < MAX_HEADER_BYTES) {
    const { done, value } = await reader.read();
    if (done) break;
    const longer = new Uint8Array(start.length + value.length);
    longer.set(start);
    longer.set(value, start.length);
    start = longer;
  }
  await reader.cancel();
  return { size, header: parse(start, name)?.header };
}

/** @param {number | null | undefined} expires */
const isExpired = (expires) => expires !== null && expires !== undefined && expires <= Date.now();

// Names that were read since the index was last told.
/** @type {Set<string>} */
let touched = new Set();
let toldAt = 0;

/** @param {Env} env */
const indexOf = (env) => env.INDEX.get(env.INDEX.idFromName("entries"));

/** @param {Env} env */
async function tellTouched(env) {
  const names = [...touched];
  touched = new Set();
  toldAt = Date.now();
  // The index decides what is evicted first, and no more.
  if (names.length > 0)
    await indexOf(env)
      .touch(names)
      .catch(() => {});
}

/** @type {ExportedHandler<Env>} */
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const name = decodeURIComponent(url.pathname.slice(1));
    const { method } = request;
    if (name === "") return method === "GET" ? list(url, env) : new Response(null, { status: 405 });
    if (fileName(name).length > MAX_FILE_NAME) {
      await request.arrayBuffer(); // the binding waits until its body is read
      return new Response("the name is too long", { status: 414 });
    }
    if (method === "GET") return get(name, env, ctx);
    if (method === "PUT") return put(name, url, request, env);
    if (method === "DELETE") {
      await indexOf(env).remove(name);
      return new Response(null, { status: 204 });
    }
    return new Response(null, { status: 405 });
  },
};

/**
 * @param {string} name
 * @param {Env} env
 * @param {ExecutionContext} ctx
 */
async function get(name, env, ctx) {
  const entry = await read(env.DISK, name);
  if (!entry?.header || isExpired(entry.header.expires)) {
    if (entry) ctx.waitUntil(indexOf(env).inspect(name));
    return new Response(null, { status: 404 });
  }
  touched.add(name);
  if (Date.now() - toldAt >= TOUCH_AFTER_MS) ctx.waitUntil(tellTouched(env));
  const { metadata } = entry.header;
  return new Response(
    entry.value,
    metadata === undefined ? {} : { headers: { "CF-KV-Metadata": JSON.stringify(metadata) } },
  );
}

/**
 * @param {string} name
 * @param {URL} url
 * @param {Request} request
 * @param {Env} env
 */
async function put(name, url, request, env) {
  const value = new Uint8Array(await request.arrayBuffer());
  if (value.length > MAX_VALUE_BYTES) return new Response("the value is too large", { status: 413 });
  const ttl = url.searchParams.get("expiration_ttl");
  const at = url.searchParams.get("expiration");
  const expires = ttl !== null ? Date.now() + Number(ttl) * 1000 : at !== null ? Number(at) * 1000 : null;
  const metadata = request.headers.get("CF-KV-Metadata");
  /** @type {Header} */
  const header = { name, expires, ...(metadata === null ? {} : { metadata: JSON.parse(metadata) }) };
  const line = new TextEncoder().encode(`${JSON.stringify(header)}\n`);
  const file = new Uint8Array(line.length + value.length);
  file.set(line);
  file.set(value, line.length);
  await tellTouched(env); // it decides what this write evicts
  await indexOf(env).write(name, file, expires);
  return new Response(null, { status: 204 });
}

/**
 * @param {URL} url
 * @param {Env} env
 */
async function list(url, env) {
  const limit = Math.min(Number(url.searchParams.get("key_count_limit") ?? PAGE) || PAGE, PAGE);
  const cursor = url.searchParams.get("cursor") || null;
  return Response.json(await indexOf(env).list(url.searchParams.get("prefix") ?? "", cursor, limit));
}

/**
 * Every write and every deletion, one at a time for each name. A row is written before its file, so no file lacks a row, except
 * where the folder was changed from outside: a comparison when the object starts finds these.
 *
 * @extends {DurableObject<Env>}
 */
export class EntryIndex extends DurableObject {
  #sql;
  #maxBytes;
  #total;
  #usedAt;
  /** @type {Map<string, Promise<unknown>>} the last operation of each name that has one */
  #operations = new Map();
  /** @type {Promise<void>} */
  #compared;

  /**
   * @param {DurableObjectState} ctx
   * @param {Env} env
   */
  constructor(ctx, env) {
    super(ctx, env);
    this.#maxBytes = Number(env.MAX_BYTES ?? Number.POSITIVE_INFINITY);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS entries (
        name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, expires INTEGER, used INTEGER NOT NULL
      ) WITHOUT ROWID;
      CREATE INDEX IF NOT EXISTS by_expires ON entries (expires) WHERE expires IS NOT NULL;
      CREATE INDEX IF NOT EXISTS by_used ON entries (used);
    `);
    this.#total = this.#number("SELECT COALESCE(SUM(bytes), 0) AS n FROM entries");
    this.#usedAt = this.#number("SELECT COALESCE(MAX(used), 0) AS n FROM entries");
    this.#compared = this.#compare();
    this.#compared.catch(() => {}); // `list` reports it
  }

  /**
   * Writes a file. One that is larger than the whole folder may be is evicted at once, so it is not written.
   *
   * @param {string} name
   * @param {Uint8Array} file
   * @param {number | null} expires
   */
  async write(name, file, expires) {
    const fits = file.length <= this.#maxBytes;
    await this.#exclusively(name, async () => {
      if (!fits) return this.#delete(name);
      this.#record(name, file.length, expires);
      const response = await this.env.DISK.fetch(urlOf(name), { method: "PUT", body: file });
      if (!response.ok) {
        await this.#observe(name);
        throw new Error(`writing an entry: status ${response.status}`);
      }
    });
    if (fits) await this.#evict(name);
    await this.#schedule();
  }

  /** @param {string} name */
  remove(name) {
    return this.#exclusively(name, () => this.#delete(name));
  }

  /**
   * Looks at a file again, after it could not be served.
   *
   * @param {string} name
   */
  inspect(name) {
    return this.#exclusively(name, () => this.#observe(name));
  }

  /** @param {string[]} names */
  async touch(names) {
    for (const name of names) this.#sql.exec("UPDATE entries SET used = ? WHERE name = ?", this.#now(), name);
  }

  /**
   * A page of names, as KV's protocol has it.
   *
   * @param {string} prefix
   * @param {string | null} cursor
   * @param {number} limit
   */
  async list(prefix, cursor, limit) {
    await this.#compared;
    const rows = this.#sql
      .exec(
        `SELECT name, expires FROM entries WHERE name >= ? AND name > ? AND substr(name, 1, ?) = ?
         AND (expires IS NULL OR expires > ?) ORDER BY name LIMIT ?`,
        prefix,
        cursor ?? "",
        [...prefix].length,
        prefix,
        Date.now(),
        limit + 1,
      )
      .toArray();
    const page = rows.slice(0, limit);
    const keys = page.map(({ name, expires }) => ({
      name,
      ...(expires === null ? {} : { expiration: Math.ceil(Number(expires) / 1000) }),
    }));
    if (rows.length <= limit) return { keys, list_complete: true };
    return { keys, list_complete: false, cursor: page.at(-1)?.name };
  }

  /** Deletes what has expired. */
  async alarm() {
    const due = this.#sql
      .exec("SELECT name FROM entries WHERE expires <= ? ORDER BY expires LIMIT ?", Date.now(), SWEEP_BATCH)
      .toArray();
    let failed = false;
    for (const { name } of due) {
      // The file decides: a row may be that of a write that did not happen.
      await this.inspect(String(name)).catch(() => (failed = true));
    }
    await this.#schedule(failed ? RETRY_SWEEP_MS : 0);
  }

  /**
   * Sets the alarm for the next expiry, unless one is set for earlier.
   *
   * @param {number} [atLeastMs]
   */
  async #schedule(atLeastMs = MIN_ALARM_MS) {
    const next = this.#sql.exec("SELECT MIN(expires) AS at FROM entries WHERE expires IS NOT NULL").one().at;
    if (next === null) return;
    const at = Math.max(Number(next), Date.now() + atLeastMs);
    const set = await this.ctx.storage.getAlarm();
    if (set === null || set > at) await this.ctx.storage.setAlarm(at);
  }

  /**
   * Deletes the entries that have not been used for longest, until the rest fits.
   *
   * @param {string} written the name of the last write, which goes last
   */
  async #evict(written) {
    while (this.#total > this.#maxBytes) {
      const oldest = this.#sql
        .exec("SELECT name FROM entries WHERE name != ? ORDER BY used LIMIT ?", written, EVICT_BATCH)
        .toArray();
      if (oldest.length === 0) return;
      for (const { name } of oldest) {
        if (this.#total <= this.#maxBytes) return;
        await this.remove(String(name));
      }
    }
  }

  /** @param {string} name */
  async #delete(name) {
    const response = await this.env.DISK.fetch(urlOf(name), { method: "DELETE" });
    if (!response.ok && response.status !== 404) throw new Error(`deleting an entry: status ${response.status}`);
    this.#forget(name);
  }

  /**
   * Makes a name's row what its file says, and deletes a file that has expired or is not an entry.
   *
   * @param {string} name
   */
  async #observe(name) {
    const entry = await readHeader(this.env.DISK, name);
    if (!entry) return this.#forget(name);
    if (!entry.header || isExpired(entry.header.expires)) return this.#delete(name);
    this.#record(name, entry.size, entry.header.expires);
  }

  /**
   * Compares the rows with the files, which may have been changed while the object was not running.
   */
  async #compare() {
    const rows = new Set(
      this.#sql
        .exec("SELECT name FROM entries")
        .toArray()
        .map(({ name }) => String(name)),
    );
    for (const folder of await this.#listing("")) {
      if (folder.type !== "directory") continue;
      const unknown = (await this.#listing(`${folder.name}/`))
        .filter(({ name: file }) => folderOf(file) === folder.name)
        .flatMap(({ name: file }) => nameOf(file) ?? [])
        .filter((name) => !rows.delete(name));
      await this.#inspectAll(unknown);
    }
    await this.#inspectAll([...rows]);
    await this.#evict("");
    await this.#schedule();
  }

  /**
   * Looks at many files, some at a time. Requests are served meanwhile.
   *
   * @param {string[]} names
   */
  async #inspectAll(names) {
    for (let at = 0; at < names.length; at += INSPECT_BATCH) {
      await Promise.all(names.slice(at, at + INSPECT_BATCH).map((name) => this.inspect(name)));
      await scheduler.wait(1); // the runtime looks at its sockets only when there is nothing else to do
    }
  }

  /**
   * @param {string} folder
   * @returns {Promise<{ name: string, type: string }[]>}
   */
  async #listing(folder) {
    const response = await this.env.DISK.fetch(`http://disk/${folder}`);
    if (!response.ok) throw new Error(`listing entries: status ${response.status}`);
    return response.json();
  }

  /**
   * @param {string} name
   * @param {number} bytes
   * @param {number | null} expires
   */
  #record(name, bytes, expires) {
    this.#forget(name);
    this.#sql.exec("INSERT INTO entries VALUES (?, ?, ?, ?)", name, bytes, expires, this.#now());
    this.#total += bytes;
  }

  /** @param {string} name */
  #forget(name) {
    const [row] = this.#sql.exec("DELETE FROM entries WHERE name = ? RETURNING bytes", name).toArray();
    if (row) this.#total -= Number(row.bytes);
  }

  // No two uses have the same time, so that their order is known.
  #now() {
    this.#usedAt = Math.max(Date.now(), this.#usedAt + 1);
    return this.#usedAt;
  }

  /** @param {string} query */
  #number(query) {
    return Number(this.#sql.exec(query).one().n);
  }

  /**
   * Runs operations on one name one after the other.
   *
   * @template T
   * @param {string} name
   * @param {() => Promise<T> | T} operation
   * @returns {Promise<T>}
   */
  #exclusively(name, operation) {
    const before = this.#operations.get(name) ?? Promise.resolve();
    const result = before.then(operation, operation);
    const settled = result.then(
      () => {},
      () => {},
    );
    this.#operations.set(name, settled);
    settled.then(() => {
      if (this.#operations.get(name) === settled) this.#operations.delete(name);
    });
    return result;
  }
}

/**
 * The name that a file is for; undefined if it is for none.
 *
 * @param {string} file
 */
function nameOf(file) {
  /** @type {number[]} */
  const bytes = [];
  for (const [, code, character] of file.matchAll(/=([0-9a-f]{2})|(.)/g)) {
    bytes.push(code === undefined ? character.charCodeAt(0) : Number.parseInt(code, 16));
  }
  const name = new TextDecoder().decode(Uint8Array.from(bytes));
  return fileName(name) === file ? name : undefined;
}
