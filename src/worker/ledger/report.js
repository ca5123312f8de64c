// What the ledger answers: sums, and the money that they are, computed when they are read.
import { dayText, entriesQuery, reportQuery, timeText } from "./query.js";

/** @import { Book } from "./book.js" */
/** @import { PriceTable, Tokens } from "./prices.js" */

const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;
/** How long after a request its isolate has sent the count, if nothing fails. */
const DELAY_MS = 30_000;
/** Outcomes that were served from the cache. */
const HITS = ["HIT", "STALE", "UPDATING"];

/** Until when the counts of all isolates have come, if nothing failed. @param {number} now In milliseconds since 1970. */
export const completeUntil = (now) => new Date(now - DELAY_MS).toISOString();

/** @param {number} usd */
const rounded = (usd) => Math.round(usd * 1e6) / 1e6;

/** @param {Record<string, any>} row @param {string} side @returns {Tokens} */
const tokensOf = (row, side) => ({
  input: row[`${side}_input`],
  output: row[`${side}_output`],
  cached_input: row[`${side}_cached_input`],
  cache_write: row[`${side}_cache_write`],
});

class Sum {
  requests = 0;
  hits = 0;
  coalesced = 0;
  bytes = 0;
  saved = { input: 0, output: 0, cached_input: 0, cache_write: 0 };
  spent = { input: 0, output: 0, cached_input: 0, cache_write: 0 };
  usdSaved = 0;
  usdSpent = 0;
  unpriced = 0;
  msSaved = 0;
  msSpent = 0;

  /**
   * Adds a row that is of one outcome, provider, model and day.
   *
   * @param {Record<string, any>} row
   * @param {import("./prices.js").Price | undefined} price
   */
  add(row, price) {
    this.requests += row.requests;
    if (HITS.includes(row.outcome)) this.hits += row.requests;
    if (row.outcome === "COALESCED") this.coalesced += row.requests;
    this.bytes += row.bytes;
    this.msSaved += row.saved_ms;
    this.msSpent += row.spent_ms;
    for (const side of /** @type {const} */ (["saved", "spent"])) {
      const tokens = tokensOf(row, side);
      for (const kind of /** @type {const} */ (["input", "output", "cached_input", "cache_write"])) {
        this[side][kind] += tokens[kind];
      }
      const usd = price?.(tokens) ?? 0;
      if (side === "saved") this.usdSaved += usd;
      else this.usdSpent += usd;
    }
    const hasTokens = NUMBER_OF_TOKENS.some((name) => row[name] > 0);
    this.unpriced += price === undefined && hasTokens ? row.requests : row.unmetered;
  }

  toJSON() {
    return {
      requests: this.requests,
      hits: this.hits,
      coalesced: this.coalesced,
      bytes: this.bytes,
      tokens_saved: this.saved,
      tokens_spent: this.spent,
      usd_saved: rounded(this.usdSaved),
      usd_spent: rounded(this.usdSpent),
      unpriced_requests: this.unpriced,
      seconds_saved: Math.round(this.msSaved / 1000),
      seconds_spent: Math.round(this.msSpent / 1000),
    };
  }
}

const NUMBER_OF_TOKENS = ["saved_input", "saved_output", "spent_input", "spent_output"];

/**
 * `GET /admin/ledger`.
 *
 * @param {Book} book
 * @param {URLSearchParams} parameters
 * @param {PriceTable} prices
 * @param {number} now In milliseconds since 1970.
 */
export function report(book, parameters, prices, now) {
  const { from, to, fromHour, toHour, by } = reportQuery(parameters, now);
  // A price depends on these.
  const needed = [...new Set([...by, "day", "provider", "model", "outcome"])];
  const totals = new Sum();
  /** @type {Map<string, { names: Record<string, any>, sum: Sum }>} */
  const rows = new Map();
  for (const row of book.sums(fromHour, toHour, needed)) {
    const price = prices.price(row.provider, row.model, row.day * DAY_MS);
    totals.add(row, price);
    if (by.length === 0) continue;
    const names = Object.fromEntries(by.map((name) => [name, named(name, row[name])]));
    const id = JSON.stringify(names);
    const found = rows.get(id) ?? { names, sum: new Sum() };
    rows.set(id, found);
    found.sum.add(row, price);
  }
  return {
    from,
    to,
    complete_until: completeUntil(Math.min(now, toHour * HOUR_MS + DELAY_MS)),
    currency: "USD",
    prices: prices.version,
    totals,
    rows: [...rows.values()].map(({ names, sum }) => ({ ...names, ...sum.toJSON() })),
  };
}

/** @param {string} name @param {any} value */
function named(name, value) {
  if (name === "day") return dayText(value);
  if (name === "hour") return timeText(value);
  // A request without namespace is in the empty one.
  return value === "" && name !== "namespace" ? null : value;
}

/** @param {number} ms 0: unknown, or never. */
const timeOf = (ms) => (ms > 0 ? new Date(ms).toISOString() : null);

/**
 * `GET /admin/entries`.
 *
 * @param {Book} book
 * @param {URLSearchParams} parameters
 * @param {PriceTable} prices
 * @param {number} now In milliseconds since 1970.
 */
export function listEntries(book, parameters, prices, now) {
  const query = entriesQuery(parameters, now);
  const { rows, total } = book.entries(query);
  const next = query.offset + rows.length;
  const entries = rows.map((row) => {
    const tokens = { input: row.saved_input, output: row.saved_output, cached_input: 0, cache_write: 0 };
    const price = prices.price(row.provider, row.model, now);
    return {
      key: row.key,
      provider: row.provider || null,
      endpoint: row.endpoint || null,
      model: row.model || null,
      namespace: row.namespace,
      requests: row.requests,
      hits: row.hits,
      bytes: row.bytes,
      tokens_saved: { input: row.saved_input, output: row.saved_output },
      usd_saved: price ? rounded(price(tokens)) : null,
      seconds_saved: Math.round(row.saved_ms / 1000),
      stored_at: timeOf(row.stored_at),
      last_used_at: timeOf(row.last_at),
      expires_at: timeOf(row.expires_at),
    };
  });
  return { prices: prices.version, entries, cursor: next < total && rows.length > 0 ? String(next) : null, total };
}
