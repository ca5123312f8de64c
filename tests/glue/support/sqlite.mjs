// The ledger's SQL on a database in memory.

import { DatabaseSync } from "node:sqlite";
import { Book } from "../../../src/worker/ledger/book.js";

/** A ledger without a Durable Object. */
export function createBook() {
  const database = new DatabaseSync(":memory:");
  /** @param {string} query @param {any[]} values @returns {any[]} */
  const exec = (query, ...values) => database.prepare(query).all(...values);
  const transaction = (act) => {
    database.exec("BEGIN");
    try {
      act();
      database.exec("COMMIT");
    } catch (error) {
      database.exec("ROLLBACK");
      throw error;
    }
  };
  return Object.assign(new Book({ exec }, transaction), { exec });
}

const ZEROS = Array(13).fill(0);

/**
 * A row of a batch. `numbers`: those that are not 0, by their place.
 *
 * @param {number} hour
 * @param {Record<string, string>} [names]
 * @param {Record<number, number>} [numbers]
 * @returns {any}
 */
export const row = (hour, names = {}, numbers = { 0: 1 }) => ({
  hour,
  provider: "openai",
  endpoint: "chat/completions",
  model: "gpt-4o",
  namespace: "",
  outcome: "HIT",
  reason: "",
  ...names,
  numbers: Object.assign([...ZEROS], numbers),
});

/** An entry of a batch. @param {string} key @param {object} [fields] @returns {any} */
export const entry = (key, fields = {}) => ({
  key,
  provider: "openai",
  endpoint: "chat/completions",
  model: "gpt-4o",
  namespace: "",
  requests: 1,
  hits: 0,
  tokens: [0, 0],
  ms: 0,
  bytes: 1,
  last_at: 0,
  stored_at: 0,
  expires_at: 0,
  ...fields,
});

/** @param {any[]} rows @returns {any} */
export const batch = (rows, { entries = [], totals = [] } = {}) => ({ rows, entries, totals });
