// The Worker's main module: requests go to the fast path and from there to Rust; after a panic or a trap, a new wasm
// instance begins. `npm run build` puts this beside what is compiled.
import {
  __wbg_reset_state,
  __worker_init_state,
  fetch,
  fastPath as openFastPath,
  Coalescer as RustCoalescer,
} from "./index.js";

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

/** @type {ExportedHandler} */
export default {
  async fetch(request, env, ctx) {
    const response = await fastPath.respond(request, env);
    if (response) return response;
    currentInstance();
    return fetch(request, env, ctx);
  },
};

/** The Durable Object. The runtime keeps it longer than a wasm instance may last. */
export class Coalescer {
  #ctx;
  #env;
  #instance = 0; // of `#object`
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
    return new URL(request.url).pathname === "/namespace" ? this.#deletedAt(request) : this.#current().fetch(request);
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
