// The built worker behind a gate: before each operation on the store the test is asked, through the GATE
// service, what shall become of it. It may let the operation pass, keep it waiting or make it fail. The worker
// itself is the product's, unchanged.

import worker, { Flight as UngatedFlight } from "../../../build/main.js";

function gated(store, gate) {
  return new Proxy(store, {
    get(target, operation) {
      const method = target[operation];
      if (typeof method !== "function") return method;
      return async (...args) => {
        const verdict = await gate.fetch(`http://gate/${operation}`);
        if (!verdict.ok) throw new Error(`KV ${operation} failed: ${verdict.status}`);
        return method.apply(target, args);
      };
    },
  });
}

const behindGate = (env) => ({ ...env, OPENAI_CACHE: gated(env.OPENAI_CACHE, env.GATE) });

export class Flight extends UngatedFlight {
  constructor(ctx, env) {
    super(ctx, behindGate(env));
  }
}

export default { fetch: (request, env, ctx) => worker.fetch(request, behindGate(env), ctx) };
