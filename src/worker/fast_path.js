// The fast path: a request that this isolate has seen before, byte for byte, is served without parsing its body.
//
// The slow path (wasm) decides, and adds a plan for each request that the fast path can serve when it is repeated. A plan
// knows the cache key, checks the stored entry, and builds the response's head; see fast_path.rs.

import { decodeHeaders } from "./platform/interop.js";
import { readWithTimeout } from "./store/kv.js";

/** @import { MemoryCache } from "./store/memory.js" */
/** @import { StoreFault } from "./store/kv.js" */

const MAX_HEADS = 1_000;
const MAX_PLANS = 2_000;
const MAX_HEADER_NAMES = 1_000;
/** Longer header names are not remembered. */
const MAX_HEADER_NAME_CHARS = 64;
/** Longer response heads are built anew for each request. */
const MAX_RESPONSE_HEAD_CHARS = 10_000;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the slow path refuses header values that contain these.
const INVALID_IN_HEADER_VALUE = /[\0-\x08\x0a-\x1f\x7f]/;

const encoder = new TextEncoder();

/**
 * The response to one request, exported by the wasm. Its methods throw if the instance has been replaced after a panic.
 *
 * @typedef {object} Plan
 * @property {(value: Uint8Array, digest: Uint8Array | undefined, now: number) => string | undefined} responseHead The head of
 *   the response out of an entry, as JSON; undefined if the request takes the slow path. `digest`: the SHA-256 of all
 *   after the entry's prefix, unless it has been verified before.
 * @property {(now: number) => void} countHit Counts a response with the last head.
 * @property {(env: Env) => Promise<Uint8Array<ArrayBuffer> | undefined | StoreFault | "entry-corrupt">} readStore
 */

/** @typedef {Record<string, any>} Env The Worker's bindings. */

/**
 * @typedef {object} ResponseHead
 * @property {string | number} id Of the entry that it was built from.
 * @property {number} validFrom In milliseconds since 1970.
 * @property {number} validUntil
 * @property {number} bodyStart Where the body begins in the entry.
 * @property {[string, string]} logLine What comes before and after the duration.
 * @property {ResponseInit} init
 */

/**
 * @typedef {object} KnownRequest
 * @property {Plan} plan
 * @property {string} key The cache key.
 * @property {ResponseHead | undefined} head The last one.
 */

/**
 * The fast path's findings about a request that it leaves to the slow path.
 *
 * @typedef {object} Probe
 * @property {number} startedAt In milliseconds since 1970.
 * @property {string} headDigest
 * @property {string} [digest] Of the head and the body.
 * @property {boolean} hasDigest
 * @property {Uint8Array<ArrayBuffer>} [body]
 * @property {boolean} bodyFailed Whether the body was aborted while it was read.
 * @property {{ key: string, value: Uint8Array<ArrayBuffer> | undefined | string }} [lookup] What the store has returned.
 */

/**
 * @typedef {object} FastPathOptions
 * @property {string[]} ignoredHeaders
 * @property {number} maxBodyBytes
 * @property {number} prefixBytes
 * @property {MemoryCache | undefined} memory
 * @property {string | undefined} kvBinding
 * @property {number} timeoutMs
 */

/**
 * A map that drops the least recently used entry when it is full.
 *
 * @template K, V
 * @extends {Map<K, V>}
 */
export class LruMap extends Map {
  #capacity;

  /** @param {number} capacity */
  constructor(capacity) {
    super();
    this.#capacity = capacity;
  }

  /**
   * @param {K} key
   * @returns {V | undefined}
   */
  use(key) {
    const value = this.get(key);
    if (value === undefined) return undefined;
    this.delete(key);
    super.set(key, value);
    return value;
  }

  /**
   * @param {K} key
   * @param {V} value
   */
  set(key, value) {
    super.set(key, value);
    if (this.size > this.#capacity) this.delete(/** @type {K} */ (this.keys().next().value));
    return this;
  }
}

/** @param {BufferSource} bytes */
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

/**
 * Bytes as a string, one character each. Spreading them takes six times as long as `apply`.
 *
 * @param {any} bytes A `Uint8Array`, which `apply` takes although its type says otherwise.
 * @returns {string}
 */
const latin1 = (bytes) => String.fromCharCode.apply(null, bytes);

export class FastPath {
  /** @type {FastPathOptions | undefined} */
  #options;
  /** @type {LruMap<string, boolean>} Whether a header of this name is part of the digest. */
  #names = new LruMap(MAX_HEADER_NAMES);
  /** @type {LruMap<string, boolean>} Digests of heads whose bodies the slow path reads. */
  #heads = new LruMap(MAX_HEADS);
  /** @type {LruMap<string, KnownRequest>} By the digest of head and body. */
  #requests = new LruMap(MAX_PLANS);
  /** @type {WeakMap<Request, Probe>} */
  #probes = new WeakMap();

  /**
   * Calls the wasm instance to no other end: if it has ended in a panic, a call replaces it. Set by `main.js`.
   *
   * @type {() => void}
   */
  ensureInstance = () => {};

  /**
   * Opens the fast path for a new wasm instance, and drops the plans of the last one.
   *
   * @param {string[]} ignoredHeaders Names of headers that no decision depends on; `*` at the end stands for any ending, `!` at
   *   the beginning for an exception.
   * @param {number} maxBodyBytes
   * @param {number} prefixBytes How much of an entry comes before what its digest covers.
   * @param {MemoryCache | undefined} memory
   * @param {string | undefined} kvBinding The name of the KV binding, if that holds the entries unencrypted.
   * @param {number} timeoutMs How long a read of KV may take.
   */
  open(ignoredHeaders, maxBodyBytes, prefixBytes, memory, kvBinding, timeoutMs) {
    this.#options = { ignoredHeaders, maxBodyBytes, prefixBytes, memory, kvBinding, timeoutMs };
    this.#names.clear();
    this.#heads.clear();
    this.#requests.clear();
  }

  /**
   * The response to a request; undefined if it takes the slow path.
   *
   * @param {Request} request
   * @param {Env} env
   */
  async respond(request, env) {
    if (!this.#options || request.method !== "POST") return undefined;
    const startedAt = Date.now();
    const head = this.#head(request, this.#options);
    if (head === undefined) return undefined;
    /** @type {Probe} */
    const probe = {
      startedAt,
      hasDigest: false,
      bodyFailed: false,
      headDigest: latin1(await sha256(encoder.encode(head))),
    };
    if (this.#heads.use(probe.headDigest)) {
      try {
        probe.body = new Uint8Array(await request.arrayBuffer());
        probe.digest = probe.headDigest + latin1(await sha256(probe.body));
        probe.hasDigest = true;
      } catch {
        probe.bodyFailed = true;
      }
    }
    const known = probe.digest === undefined ? undefined : this.#requests.use(probe.digest);
    if (known && probe.digest !== undefined) {
      try {
        const response = await this.#serve(known, probe, env, this.#options);
        if (response) return response;
      } catch (error) {
        // The plan's instance may have ended in a panic. That must be reported to the runtime.
        this.#requests.delete(probe.digest);
        reportError(error);
      }
    }
    // Only for the slow path: a body that is referenced from here is garbage collected late.
    this.#probes.set(request, probe);
    return undefined;
  }

  /**
   * Everything but the body that the slow path's decisions may depend on. Undefined if the body's length is not declared, or
   * does not decide whether the body is read.
   *
   * @param {Request} request
   * @param {FastPathOptions} options
   */
  #head(request, options) {
    let head = `${request.url}\n`;
    let hasLength = false;
    let valid = true;
    request.headers.forEach((value, name) => {
      if (INVALID_IN_HEADER_VALUE.test(value)) valid = false;
      if (name === "content-length") hasLength = /^[1-9]\d*$/.test(value) && Number(value) <= options.maxBodyBytes;
      else if (this.#isCompared(name, options)) head += `${name}:${value}\n`;
    });
    return hasLength && valid ? head : undefined;
  }

  /**
   * @param {string} name
   * @param {FastPathOptions} options
   */
  #isCompared(name, options) {
    let isCompared = this.#names.get(name);
    if (isCompared === undefined) {
      /** @param {string} pattern */
      const matches = (pattern) => (pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern);
      const { ignoredHeaders } = options;
      isCompared =
        !ignoredHeaders.some(matches) ||
        ignoredHeaders.some((pattern) => pattern.startsWith("!") && matches(pattern.slice(1)));
      if (name.length <= MAX_HEADER_NAME_CHARS) this.#names.set(name, isCompared);
    }
    return isCompared;
  }

  /**
   * @param {KnownRequest} known
   * @param {Probe} probe
   * @param {Env} env
   * @param {FastPathOptions} options
   */
  async #serve(known, probe, env, { kvBinding, timeoutMs, memory, prefixBytes }) {
    const { key, plan } = known;
    const entry = memory?.getEntry(key, Date.now());
    // The memory may hold a newer entry than the store returns, so the store is not read even if this one does not do.
    if (entry) return this.#responseFrom(known, entry.value, entry.id, undefined, probe.startedAt);
    this.ensureInstance();
    const value = kvBinding ? await readWithTimeout(env[kvBinding], key, timeoutMs) : await plan.readStore(env);
    probe.lookup = { key, value };
    if (!(value instanceof Uint8Array)) return undefined;
    const digest = await sha256(value.subarray(prefixBytes));
    const id = latin1(value.subarray(0, prefixBytes)) + latin1(digest);
    const response = this.#responseFrom(known, value, id, digest, probe.startedAt);
    if (response) memory?.putIfCurrent(key, value, Date.now());
    return response;
  }

  /**
   * @param {KnownRequest} known
   * @param {Uint8Array<ArrayBuffer>} value The entry.
   * @param {string | number} id The same for the same entry only.
   * @param {Uint8Array | undefined} digest As in `Plan.responseHead`.
   * @param {number} startedAt
   */
  #responseFrom(known, value, id, digest, startedAt) {
    // If the instance has been replaced, the plan notices that it belongs to another one.
    this.ensureInstance();
    const now = Date.now();
    let { head } = known;
    if (head?.id !== id || now < head.validFrom || head.validUntil <= now) {
      const text = known.plan.responseHead(value, digest, now);
      if (text === undefined) return undefined;
      const { status, headers, body_start: bodyStart, valid_until: validUntil, log_line: logLine } = JSON.parse(text);
      const init = { status, headers: decodeHeaders(headers) };
      head = { id, validFrom: now, validUntil, bodyStart, logLine, init };
      known.head = headers.length <= MAX_RESPONSE_HEAD_CHARS ? head : undefined;
    }
    const response = new Response(value.subarray(head.bodyStart), head.init);
    known.plan.countHit(now);
    console.log(head.logLine[0] + Math.max(0, now - startedAt) + head.logLine[1]);
    return response;
  }

  /**
   * The fast path's findings about a request that it has left to the slow path.
   *
   * @param {Request} request
   */
  probe(request) {
    return this.#probes.get(request);
  }

  /**
   * The slow path reads the bodies of requests with this head.
   *
   * @param {Probe} probe
   */
  rememberHead({ headDigest }) {
    this.#heads.set(headDigest, true);
  }

  /**
   * The slow path has a plan for requests that equal this one.
   *
   * @param {Probe} probe
   * @param {Plan} plan
   * @param {string} key
   */
  addPlan({ digest }, plan, key) {
    if (digest !== undefined) this.#requests.set(digest, { plan, key, head: undefined });
  }
}

const instance = new FastPath();

/** The fast path of this isolate. */
export const fastPath = () => instance;
