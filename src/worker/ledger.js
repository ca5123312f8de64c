// The ledger: a Durable Object that adds up what all isolates have counted. It needs no wasm.
import { Book } from "./ledger/book.js";
import { InvalidQuery } from "./ledger/query.js";
import { completeUntil, listEntries, report } from "./ledger/report.js";

/** @import { PriceTable } from "./ledger/prices.js" */

export class Ledger {
  #book;

  /** @param {DurableObjectState} ctx */
  constructor(ctx) {
    this.#book = new Book(ctx.storage.sql, (act) => ctx.storage.transactionSync(act));
  }

  /** @param {Request} request */
  async fetch(request) {
    const question = new URL(request.url).pathname;
    const body = /** @type {any} */ (await request.json());
    const now = Date.now();
    if (question === "/batch") {
      this.#book.add(body, now);
      return new Response(null, { status: 204 });
    }
    try {
      return Response.json(await this.#answer(question, new URLSearchParams(body.query), body.prices, now));
    } catch (error) {
      if (error instanceof InvalidQuery) return new Response(error.message, { status: 400 });
      throw error;
    }
  }

  /**
   * @param {string} question
   * @param {URLSearchParams} query
   * @param {string | undefined} overrides `PRICES`
   * @param {number} now
   */
  async #answer(question, query, overrides, now) {
    if (question === "/totals") return { totals: this.#book.totals() };
    if (question === "/status") return { ...this.#book.status(), complete_until: completeUntil(now) };
    const { priceTable } = await import("./prices.js");
    const prices = /** @type {PriceTable} */ (priceTable(overrides === undefined ? {} : JSON.parse(overrides)));
    return question === "/entries"
      ? listEntries(this.#book, query, prices, now)
      : report(this.#book, query, prices, now);
  }
}
