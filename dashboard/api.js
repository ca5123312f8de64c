// The operator's endpoints.

const TIMEOUT_MS = 30_000;

/** @typedef {{ input: number, output: number, cached_input?: number, cache_write?: number }} Tokens */
/**
 * What the ledger has counted: in total, or of one row.
 *
 * @typedef {object} Counts
 * @property {number} requests
 * @property {number} hits
 * @property {number} coalesced
 * @property {number} [bytes]
 * @property {Tokens} tokens_saved
 * @property {Tokens} tokens_spent
 * @property {number | null} usd_saved
 * @property {number | null} usd_spent
 * @property {number} unpriced_requests
 * @property {number | null} seconds_saved
 * @property {number | null} [seconds_spent]
 */
/** @typedef {"hour" | "day" | "provider" | "endpoint" | "model" | "namespace" | "outcome" | "reason" | "difference" | "not_stored"} Dimension */
/** @typedef {Counts & { [D in Dimension]?: string | null }} Row */
/**
 * @typedef {object} Ledger
 * @property {string | null} [complete_until]
 * @property {string} [prices]
 * @property {Counts} totals
 * @property {Row[]} rows
 * @property {boolean} [truncated]
 */
/**
 * @typedef {object} Entry
 * @property {string} key
 * @property {string | null} endpoint
 * @property {string | null} model
 * @property {string | null} namespace
 * @property {string | null} [provider]
 * @property {number} hits
 * @property {number | null} bytes
 * @property {number | null} usd_saved
 * @property {string | null} stored_at
 * @property {string | null} last_used_at
 * @property {string | null} expires_at
 */
/** @typedef {{ entries: Entry[], cursor: string | null, total?: number | null }} EntryPage */
/**
 * @typedef {object} EntryDetails
 * @property {string} key
 * @property {string | null} [endpoint]
 * @property {string | null} [model]
 * @property {string | null} [namespace]
 * @property {string | null} [provider]
 * @property {number} [status]
 * @property {string} [mode]
 * @property {number | null} [body_bytes]
 * @property {Record<string, string> | [string, string][]} [headers]
 * @property {string | null} [stored_at]
 * @property {string | null} [expires_at]
 * @property {number | null} [upstream_ms]
 * @property {Record<string, number | null> | null} [usage]
 * @property {{ path: string, length: number }[] | null} [parts]
 * @property {boolean} [tape]
 */
/** @typedef {{ path: string, change: string, stored_length?: number | null, length?: number | null }} Difference */
/**
 * @typedef {object} Explanation
 * @property {string} would
 * @property {string | null} [reason]
 * @property {string} [key]
 * @property {{ key: string, parts: number, equal: number, reason: string, differences: Difference[] }[]} [nearest]
 * @property {{ code: string, path: string, text: string }[]} [hints]
 * @property {string} [message]
 * @property {{ message: string }} [error]
 */
/**
 * @typedef {object} Status
 * @property {string} version
 * @property {{ kind: string, encrypted?: boolean, ok?: boolean | null, latency_ms?: number | null }} [store]
 * @property {{ ok: boolean, since?: string | null, complete_until?: string | null, entries?: number } | null} [ledger]
 * @property {boolean} [coalescing]
 * @property {{ scope?: string, requests?: number, upstream_requests?: number, retries?: number, store_errors?: number, store_timeouts?: number,
 *   entries_corrupt?: number, not_stored?: Record<string, number> }} [counters]
 * @property {{ name: string, value: string | null, source: string, secret?: boolean }[]} [settings]
 * @property {{ code: string, text: string }[]} [warnings]
 */

/** A call that failed. `status` is 0 if there was no response. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status
   * @param {string} [code]
   */
  constructor(message, status, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** @typedef {ReturnType<typeof createApi>} Api */
/** @typedef {Record<string, string | number | undefined>} Parameters */

/**
 * @param {string} token
 * @param {() => void} onUnauthorized
 */
export function createApi(token, onUnauthorized) {
  /**
   * @param {string} method
   * @param {string} path
   * @param {{ parameters?: Parameters, json?: unknown, signal?: AbortSignal }} [options]
   */
  const call = async (method, path, { parameters = {}, json, signal } = {}) => {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) if (value !== undefined) query.set(name, String(value));
    const url = query.size > 0 ? `${path}?${query}` : path;
    const signals = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
    /** @type {Record<string, string>} */
    const headers = { authorization: `Bearer ${token}` };
    if (json !== undefined) headers["content-type"] = "application/json";
    /** @type {Response} */
    let response;
    try {
      response = await fetch(url, {
        method,
        headers,
        body: json === undefined ? undefined : JSON.stringify(json),
        signal: AbortSignal.any(signals),
        credentials: "omit",
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      const late = error instanceof DOMException && error.name === "TimeoutError";
      throw new ApiError(
        late ? `There was no response within ${TIMEOUT_MS / 1000} seconds.` : "The proxy cannot be reached.",
        0,
      );
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({}));
    if (response.status === 401) onUnauthorized();
    throw new ApiError(
      error?.message ?? `The proxy responded with status ${response.status}.`,
      response.status,
      error?.code,
    );
  };
  /**
   * @param {string} path
   * @param {Parameters} parameters
   * @param {AbortSignal} [signal]
   */
  const get = async (path, parameters, signal) => (await call("GET", path, { parameters, signal })).json();
  return {
    /** @param {{ from: string, to: string, by: string }} parameters @param {AbortSignal} [signal] @returns {Promise<Ledger>} */
    ledger: (parameters, signal) => get("admin/ledger", parameters, signal),
    /** @param {Parameters} parameters @param {AbortSignal} [signal] @returns {Promise<EntryPage>} */
    entries: (parameters, signal) => get("admin/entries", parameters, signal),
    /** @param {AbortSignal} [signal] @returns {Promise<Status>} */
    status: (signal) => get("admin/status", {}, signal),
    /** @param {string} key @param {AbortSignal} [signal] @returns {Promise<EntryDetails>} */
    entry: (key, signal) => get(`admin/explain/${key}`, {}, signal),
    /** @param {object} request @returns {Promise<Explanation>} */
    explain: async (request) => (await call("POST", "admin/explain", { json: request })).json(),
    /** @param {string} key */
    deleteEntry: async (key) => void (await call("DELETE", `admin/cache/${key}`)),
    /** @param {string} key */
    tape: async (key) => {
      const response = await call("GET", `admin/entries/${key}/tape`);
      const [, name] = /filename="([^"/\\]+)"/.exec(response.headers.get("content-disposition") ?? "") ?? [];
      return { name: name ?? `${key.slice(0, 12)}.tape`, blob: await response.blob() };
    },
  };
}
