// What the ledger stores, in SQLite. It names no part of the Workers runtime: `sql.exec` is all it needs.

const HOUR_MS = 3_600_000;
const HOURS_OF_DAY = 24;
/** After so many days, the hours of a day become one row each. */
const HOURLY_DAYS = 35;
/** An isolate repeats a batch for an hour at most. */
const ISOLATE_MS = 7_200_000;
/** Beyond so many rows in one hour, models and namespaces are counted together: clients choose their names. */
const MAX_ROWS_PER_HOUR = 2_000;
const OTHERS = "(others)";
const MAX_ENTRIES = 5_000;
/** More entries than `MAX_ENTRIES` are kept for a while, so that a new one may become busy. */
const ENTRIES_SLACK = 1_000;

/** What a row is counted by, besides its hour. */
export const NAMES = ["provider", "endpoint", "model", "namespace", "outcome", "reason"];
/** The numbers of a row, in the order of a batch (`src/ledger/counters.rs`). */
export const NUMBERS = [
  ...["requests", "unmetered", "bytes"],
  ...["saved_input", "saved_output", "saved_cached_input", "saved_cache_write"],
  ...["spent_input", "spent_output", "spent_cached_input", "spent_cache_write"],
  ...["saved_ms", "spent_ms"],
];

/** @param {string[]} names @param {string} kind */
const columns = (names, kind) => names.map((name) => `${name} ${kind} NOT NULL`).join(", ");
/** @param {number} n */
const marks = (n) => Array(n).fill("?").join(", ");
/** @param {string[]} names */
const sums = (names) => names.map((name) => `sum(${name}) AS ${name}`).join(", ");
/** @param {string[]} names */
const additions = (names) => names.map((name) => `${name} = ${name} + excluded.${name}`).join(", ");

const COUNT_COLUMNS = ["hour", ...NAMES, ...NUMBERS];
const ENTRY_NAMES = ["provider", "endpoint", "model", "namespace"];
const ENTRY_NUMBERS = ["requests", "hits", "saved_input", "saved_output", "saved_ms"];
const ENTRY_TIMES = ["last_at", "stored_at", "expires_at"];
const ENTRY_COLUMNS = ["key", ...ENTRY_NAMES, ...ENTRY_NUMBERS, "bytes", ...ENTRY_TIMES];

const SCHEMA = [
  `CREATE TABLE IF NOT EXISTS counts (hour INTEGER NOT NULL, ${columns(NAMES, "TEXT")}, ${columns(NUMBERS, "INTEGER")},
    PRIMARY KEY (hour, ${NAMES.join(", ")})) WITHOUT ROWID`,
  `CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, ${columns(ENTRY_NAMES, "TEXT")},
    ${columns([...ENTRY_NUMBERS, "bytes", ...ENTRY_TIMES], "INTEGER")}) WITHOUT ROWID`,
  "CREATE INDEX IF NOT EXISTS busiest ON entries (requests DESC, last_at DESC)",
  "CREATE TABLE IF NOT EXISTS totals (sample TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
  "CREATE TABLE IF NOT EXISTS isolates (id TEXT PRIMARY KEY, number INTEGER NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID",
  "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
];
const ADD_COUNTS = `INSERT INTO counts (${COUNT_COLUMNS.join(", ")}) VALUES (${marks(COUNT_COLUMNS.length)})
  ON CONFLICT DO UPDATE SET ${additions(NUMBERS)}`;
const ADD_ENTRY = `INSERT INTO entries (${ENTRY_COLUMNS.join(", ")}) VALUES (${marks(ENTRY_COLUMNS.length)})
  ON CONFLICT DO UPDATE SET ${additions(ENTRY_NUMBERS)}, bytes = excluded.bytes,
    last_at = max(last_at, excluded.last_at),
    expires_at = iif(excluded.stored_at >= stored_at, excluded.expires_at, expires_at),
    stored_at = max(stored_at, excluded.stored_at)`;
const ADD_TOTAL = `INSERT INTO totals (sample, value) VALUES (?, ?)
  ON CONFLICT DO UPDATE SET value = value + excluded.value`;
const FOLD = `INSERT INTO counts (${COUNT_COLUMNS.join(", ")})
  SELECT hour / ${HOURS_OF_DAY} * ${HOURS_OF_DAY} AS day, ${NAMES.join(", ")}, ${sums(NUMBERS)} FROM counts
  WHERE hour < ? AND hour % ${HOURS_OF_DAY} != 0 GROUP BY day, ${NAMES.join(", ")}
  ON CONFLICT DO UPDATE SET ${additions(NUMBERS)}`;

/**
 * @typedef {{ exec: (query: string, ...values: any[]) => Iterable<Record<string, any>> }} Sql
 * @typedef {{ hour: number, numbers: number[] } & Record<string, any>} CountRow
 * @typedef {{ key: string, requests: number, hits: number, tokens: number[], ms: number, bytes: number, last_at: number,
 *   stored_at: number, expires_at: number }
 *   & Record<string, any>} EntryRow
 * @typedef {{ rows: CountRow[], entries: EntryRow[], totals: [string, number][] }} Batch
 */

export class Book {
  #sql;
  #transaction;

  /**
   * @param {Sql} sql
   * @param {(act: () => void) => void} transaction Carries out all or nothing.
   */
  constructor(sql, transaction) {
    this.#sql = sql;
    this.#transaction = transaction;
    for (const statement of SCHEMA) this.#all(statement);
  }

  /**
   * Adds a batch, unless it has been added before.
   *
   * @param {{ isolate: string, number: number, batch: Batch }} message
   * @param {number} now In milliseconds since 1970.
   */
  add({ isolate, number, batch }, now) {
    this.#transaction(() => {
      const [last] = this.#all("SELECT number FROM isolates WHERE id = ?", isolate);
      // An isolate sends its batches one after the other.
      if (last && number <= last.number) return;
      this.#all("INSERT OR REPLACE INTO isolates (id, number, seen) VALUES (?, ?, ?)", isolate, number, now);
      this.#all("INSERT OR IGNORE INTO facts (name, value) VALUES ('began', ?)", now);
      const isFull = this.#fullHours(batch.rows);
      for (const row of batch.rows) {
        const { model, namespace } = isFull(row) ? { model: OTHERS, namespace: OTHERS } : row;
        const names = NAMES.map((name) => ({ ...row, model, namespace })[name]);
        this.#all(ADD_COUNTS, row.hour, ...names, ...row.numbers);
      }
      for (const entry of batch.entries) {
        const names = ENTRY_NAMES.map((name) => entry[name]);
        const { key, requests, hits, tokens, ms, bytes, last_at, stored_at, expires_at } = entry;
        this.#all(ADD_ENTRY, key, ...names, requests, hits, ...tokens, ms, bytes, last_at, stored_at, expires_at);
      }
      for (const [sample, value] of batch.totals) this.#all(ADD_TOTAL, sample, value);
      this.#keepBusiest();
      this.#fold(now);
    });
  }

  /** Tells which new rows have to be counted together with others. @param {CountRow[]} rows */
  #fullHours(rows) {
    const hours = new Set(rows.map((row) => row.hour));
    const full = new Set();
    for (const hour of hours) {
      const [{ n }] = this.#all("SELECT count(*) AS n FROM counts WHERE hour = ?", hour);
      if (n + rows.length > MAX_ROWS_PER_HOUR) full.add(hour);
    }
    /** @param {CountRow} row */
    const isNew = (row) => {
      const where = NAMES.map((name) => `${name} = ?`).join(" AND ");
      const values = NAMES.map((name) => row[name]);
      return this.#all(`SELECT 1 FROM counts WHERE hour = ? AND ${where}`, row.hour, ...values).length === 0;
    };
    /** @param {CountRow} row */
    return (row) => full.has(row.hour) && isNew(row);
  }

  #keepBusiest() {
    const [{ n }] = this.#all("SELECT count(*) AS n FROM entries");
    if (n <= MAX_ENTRIES + ENTRIES_SLACK) return;
    const busiest = "SELECT key FROM entries ORDER BY requests DESC, last_at DESC, key LIMIT ?";
    this.#all(`DELETE FROM entries WHERE key NOT IN (${busiest})`, MAX_ENTRIES);
  }

  /** Makes days out of the hours that are old enough, once a day. @param {number} now */
  #fold(now) {
    const day = Math.floor(now / HOUR_MS / HOURS_OF_DAY);
    const [folded] = this.#all("SELECT value FROM facts WHERE name = 'folded'");
    if (folded?.value === day) return;
    const until = (day - HOURLY_DAYS) * HOURS_OF_DAY;
    this.#all(FOLD, until);
    this.#all(`DELETE FROM counts WHERE hour < ? AND hour % ${HOURS_OF_DAY} != 0`, until);
    this.#all("DELETE FROM isolates WHERE seen < ?", now - ISOLATE_MS);
    this.#all("INSERT OR REPLACE INTO facts (name, value) VALUES ('folded', ?)", day);
  }

  /**
   * Sums over the hours from `from` up to `to`, for each combination of these names. `hour`, `day`, and those in `NAMES`.
   *
   * @param {number} from
   * @param {number} to
   * @param {string[]} by
   */
  sums(from, to, by) {
    const keys = by.map((name) => (name === "day" ? `hour / ${HOURS_OF_DAY} AS day` : name));
    const group = by.length > 0 ? `GROUP BY ${by.join(", ")} ORDER BY ${by.join(", ")}` : "";
    const query = `SELECT ${[...keys, sums(NUMBERS)].join(", ")} FROM counts WHERE hour >= ? AND hour < ? ${group}`;
    return this.#all(query, from, to);
  }

  /**
   * The busiest entries, and how many there are.
   *
   * @param {object} query
   * @param {Record<string, string>} query.filter Values of names. One that ends in `*` is the beginning of a value.
   * @param {number} query.storedFrom In milliseconds since 1970.
   * @param {number} query.storedTo
   * @param {number} query.offset
   * @param {number} query.limit
   */
  entries({ filter, storedFrom, storedTo, offset, limit }) {
    const names = ENTRY_NAMES.filter((name) => filter[name] !== undefined);
    const tests = names.map((name) => (filter[name].endsWith("*") ? `substr(${name}, 1, ?) = ?` : `${name} = ?`));
    const values = names.flatMap((name) => {
      const value = filter[name];
      const start = value.slice(0, -1);
      return value.endsWith("*") ? [[...start].length, start] : [value];
    });
    const busiest = `SELECT * FROM entries ORDER BY requests DESC, last_at DESC, key LIMIT ${MAX_ENTRIES}`;
    const where = [...tests, "stored_at >= ?", "stored_at <= ?"].join(" AND ");
    const bound = [...values, storedFrom, storedTo];
    const [{ total }] = this.#all(`SELECT count(*) AS total FROM (${busiest}) WHERE ${where}`, ...bound);
    const order = "ORDER BY requests DESC, last_at DESC, key LIMIT ? OFFSET ?";
    return { total, rows: this.#all(`SELECT * FROM (${busiest}) WHERE ${where} ${order}`, ...bound, limit, offset) };
  }

  /** The counters of `/metrics`. */
  totals() {
    return this.#all("SELECT sample, value FROM totals ORDER BY sample").map(({ sample, value }) => [sample, value]);
  }

  /** What there is, for an operator. */
  status() {
    const [{ rows }] = this.#all("SELECT count(*) AS rows FROM counts");
    const [{ entries }] = this.#all("SELECT count(*) AS entries FROM entries");
    const [began] = this.#all("SELECT value FROM facts WHERE name = 'began'");
    const since = began ? new Date(began.value).toISOString() : null;
    return { since, rows, entries: Math.min(entries, MAX_ENTRIES), totals: this.totals() };
  }

  /** @param {string} query @param {any[]} values */
  #all(query, ...values) {
    return [...this.#sql.exec(query, ...values)];
  }
}
