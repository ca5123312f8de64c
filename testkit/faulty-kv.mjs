// Runs inside workerd: wraps the built Worker so that a test decides about each operation on the KV namespace. The namespace
// calls the GATE service first; the operation then passes, waits or fails. The Worker itself is unchanged.

const faulty = (namespace, gate) =>
  new Proxy(namespace, {
    get(target, operation) {
      const method = target[operation];
      if (typeof method !== "function") return method;
      return async (...parameters) => {
        const verdict = await gate.fetch(`http://gate/${String(operation)}`);
        if (!verdict.ok) throw new Error(`KV ${String(operation)} failed: ${verdict.status}`);
        return method.apply(target, parameters);
      };
    },
  });

const behindGate = (env, binding) => ({ ...env, [binding]: faulty(env[binding], env.GATE) });

/** The handler, with this KV binding behind the gate. */
export const faultyHandler = (worker, binding) => ({
  fetch: (request, env, ctx) => worker.fetch(request, behindGate(env, binding), ctx),
});

/** The Durable Object class, with this KV binding behind the gate. */
export const faultyClass = (Class, binding) =>
  class extends Class {
    constructor(ctx, env) {
      super(ctx, behindGate(env, binding));
    }
  };
