// The Worker's main module: requests go to the fast path and from there to Rust; after a panic or a trap, a new wasm
// instance begins. `npm run build` puts this beside what is compiled.
import { __wbg_reset_state, __worker_init_state, fastPath as openFastPath, fetch, Coalescer as RustCoalescer } from "./index.js";

// The `worker` crate counts instances here, and its panic hook sets `criticalError`.
const state = __worker_init_state();

// A trap in what no call is waiting for, such as a finalizer.
addEventListener("error", ({ error }) => {
  if (error instanceof WebAssembly.RuntimeError) state.criticalError = true;
});

// The number of an instance that works. The bindings begin a new one at the next call if a call has panicked or trapped;
// a call with no effect lets them do so before any argument is written to the memory of the old one.
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

export default {
  async fetch(request, env, ctx) {
    const response = await fastPath.respond(request, env);
    if (response) return response;
    currentInstance();
    return fetch(request, env, ctx);
  },
};

// The Durable Object. The runtime keeps it for longer than a wasm instance may live.
export class Coalescer {
  #arguments;
  #instance;
  #object;

  constructor(...args) {
    this.#arguments = args;
    this.#begin(currentInstance());
  }

  fetch(request) {
    const instance = currentInstance();
    if (instance !== this.#instance) this.#begin(instance);
    return this.#object.fetch(request);
  }

  #begin(instance) {
    this.#instance = instance;
    this.#object = new RustCoalescer(...this.#arguments);
  }
}
