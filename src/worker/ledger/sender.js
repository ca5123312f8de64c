// Sends what the isolate has counted to the ledger's Durable Object, in numbered batches, after responses have gone out.

const BINDING = "LEDGER";
const OBJECT = "ledger";
const MAX_WAIT_MS = 10_000;
const MAX_REQUESTS = 500;
/** A request that sends may end before it knows the result. After this time another one sends the same batch again. */
const SEND_LIMIT_MS = 15_000;
const RETRY_WAIT_MS = 4_000;
const MAX_ATTEMPTS = 3;
/** How often and how long a question waits for a batch that is on its way. */
const MAX_WAITS = 40;
const WAIT_MS = 25;
/** The ledger remembers an isolate's last batch for longer than this. */
const MAX_AGE_MS = 3_600_000;

/** @param {number} ms */
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class LedgerSender {
  /**
   * What has been counted since the last call, as JSON. Set by `main.js`.
   *
   * @type {() => string | undefined}
   */
  takeBatch = () => undefined;
  /** @type {string | undefined} */
  #isolate;
  #number = 0;
  /** @type {{ body: string, since: number } | undefined} The batch that has been sent and not acknowledged. */
  #unacknowledged;
  #requests = 0; // since the last batch
  #timerUntil = 0; // when the timer that sends the next batch has run out
  #sendingUntil = 0;

  /**
   * A request has been counted. Returns the task that sends what is due, if the request has to keep it alive.
   *
   * @param {Record<string, any>} env
   * @returns {Promise<void> | undefined}
   */
  due(env) {
    if (!env[BINDING]) return undefined;
    this.#requests += 1;
    if (this.#requests >= MAX_REQUESTS) {
      this.#requests = 0;
      return this.#send(env);
    }
    const now = Date.now();
    if (now < this.#timerUntil) return undefined;
    this.#timerUntil = now + MAX_WAIT_MS + SEND_LIMIT_MS;
    return this.#sendLater(env);
  }

  /** @param {Record<string, any>} env */
  async #sendLater(env) {
    await wait(MAX_WAIT_MS);
    // What is counted from here on needs a timer of its own.
    this.#timerUntil = 0;
    for (let attempt = 1; ; attempt += 1) {
      await this.#send(env);
      if (!this.#unacknowledged || attempt === MAX_ATTEMPTS) return;
      await wait(RETRY_WAIT_MS);
    }
  }

  /**
   * Sends what has been counted. One batch at a time is on its way, so that the ledger knows a repeated one by its number.
   *
   * @param {Record<string, any>} env
   */
  async #send(env) {
    if (Date.now() < this.#sendingUntil) return;
    this.#sendingUntil = Date.now() + SEND_LIMIT_MS;
    try {
      for (;;) {
        const batch = this.#next();
        if (!batch) return;
        const response = await this.#fetch(env, "batch", batch.body);
        await response.body?.cancel();
        if (!response.ok) return;
        if (this.#unacknowledged === batch) this.#unacknowledged = undefined;
      }
    } catch {
      // The batch is sent again with the next one.
    } finally {
      this.#sendingUntil = 0;
    }
  }

  /** The batch to send: the last one again until it is acknowledged. */
  #next() {
    const now = Date.now();
    if (this.#unacknowledged && now - this.#unacknowledged.since < MAX_AGE_MS) return this.#unacknowledged;
    this.#requests = 0;
    const batch = this.takeBatch();
    this.#unacknowledged = undefined;
    if (batch === undefined) return undefined;
    this.#isolate ??= crypto.randomUUID();
    this.#number += 1;
    const body = `{"isolate":"${this.#isolate}","number":${this.#number},"batch":${batch}}`;
    this.#unacknowledged = { body, since: now };
    return this.#unacknowledged;
  }

  /**
   * @param {Record<string, any>} env
   * @param {string} path
   * @param {string} body
   * @returns {Promise<Response>}
   */
  #fetch(env, path, body) {
    const ledger = env[BINDING];
    return ledger.get(ledger.idFromName(OBJECT)).fetch(`https://ledger/${path}`, { method: "POST", body });
  }

  /**
   * Asks the ledger for an operator, once it has what this isolate has counted. Resolves with JSON: the status, and a text.
   * Undefined if no ledger is bound.
   *
   * @param {Record<string, any>} env
   * @param {string} question
   * @param {string} query
   * @param {string | undefined} prices
   * @returns {Promise<string> | undefined}
   */
  ask(env, question, query, prices) {
    if (!env[BINDING]) return undefined;
    const answer = async () => {
      // Another request may be sending what this one asks for.
      for (let waits = 0; waits < MAX_WAITS && Date.now() < this.#sendingUntil; waits += 1) await wait(WAIT_MS);
      await this.#send(env);
      const response = await this.#fetch(env, question, JSON.stringify({ query, prices }));
      return JSON.stringify({ status: response.status, text: await response.text() });
    };
    return answer();
  }
}

const instance = new LedgerSender();

/** The sender of this isolate. */
export const ledgerSender = () => instance;
