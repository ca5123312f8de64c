// The Worker's main module: requests go to the fast path and from there to Rust; after a panic or a trap, a new wasm
// instance begins. `npm run build` puts this beside what is compiled.
import {
  __wbg_reset_state,
  __worker_init_state,
  fetch,
  obeySamples,
  fastPath as openFastPath,
  ledgerSender as openLedgerSender,
  Coalescer as RustCoalescer,
  takeBatch,
} from "./index.js";

export { Ledger } from "./ledger.js";

// The `worker` crate counts instances here, and its panic hook sets `criticalError`.
const state = __worker_init_state();

// A trap in code that no request called, such as a finalizer.
/** @type {EventTarget} */ (self).addEventListener("error", (/** @type {any} */ { error }) => {
  if (error instanceof WebAssembly.RuntimeError) state.criticalError = true;
});

/**
 * The number of an instance that works. If the last has panicked or trapped, the bindings begin a new one in the next call:
 * here, before the bindings write any argument to the memory of the old one.
 */
function currentInstance() {
  if (state.criticalError) {
    state.criticalError = false;
    __wbg_reset_state();
  } else {
    __worker_init_state();
  }
  return state.instanceId;
}

const fastPath = openFastPath();
fastPath.ensureInstance = currentInstance;
const ledgerSender = openLedgerSender();
ledgerSender.takeBatch = () => {
  currentInstance();
  return takeBatch();
};

/** @type {ExportedHandler} */
export default {
  async fetch(request, env, ctx) {
    const response = await fastPath.respond(request, env);
    if (response) {
      const sent = ledgerSender.due(/** @type {Record<string, any>} */ (env));
      if (sent) ctx.waitUntil(sent);
      return response;
    }
    currentInstance();
    return fetch(request, env, ctx);
  },
};

/** The Durable Object. The runtime keeps it longer than a wasm instance may last. */
export class Coalescer {
  #ctx;
  #env;
  #instance = 0; // of `#object`
  /** @type {string | undefined} The list of slots, once it has been read. */
  #slots;
  /** @type {RustCoalescer | undefined} */
  #object;

  /** @param {DurableObjectState} ctx @param {object} env */
  constructor(ctx, env) {
    this.#ctx = ctx;
    this.#env = env;
    this.#current();
  }

  /** @param {Request} request */
  fetch(request) {
    switch (new URL(request.url).pathname) {
      case "/namespace":
        return this.#deletedAt(request);
      case "/samples":
        return this.#samples(request);
      default:
        return this.#current().fetch(request);
    }
  }

  /** The list of an object of samples is of no use any more. */
  async alarm() {
    this.#slots = undefined;
    await this.#ctx.storage.deleteAll();
  }

  /**
   * The object of a set of samples instead of a key: it hands out the slots.
   *
   * @param {Request} request
   */
  async #samples(request) {
    const message = await request.text();
    const { storage } = this.#ctx;
    const stored = this.#slots ?? (await storage.get("slots")) ?? "";
    // Another request may have been here meanwhile. From here on, nothing is awaited until the list is in place.
    const before = this.#slots ?? String(stored);
    currentInstance();
    const random = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
    const [slots, answer, expiry] = obeySamples(before, message, Date.now(), random);
    this.#slots = slots;
    if (slots !== before) {
      storage.put("slots", slots, { allowUnconfirmed: true });
      if (expiry > 0) storage.setAlarm(expiry, { allowUnconfirmed: true });
      else storage.deleteAlarm();
    }
    return new Response(answer);
  }

  /**
   * The object of a namespace instead of a key: when the namespace was last deleted, in milliseconds since 1970.
   *
   * @param {Request} request
   */
  async #deletedAt({ method }) {
    if (method === "PUT") await this.#ctx.storage.put("deletedAt", Date.now());
    return new Response(String((await this.#ctx.storage.get("deletedAt")) ?? 0));
  }

  #current() {
    const instance = currentInstance();
    if (!this.#object || instance !== this.#instance) {
      this.#object = new RustCoalescer(this.#ctx, this.#env);
      this.#instance = instance;
    }
    return this.#object;
  }
}
