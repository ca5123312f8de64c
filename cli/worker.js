// The main module under `reprise`: the Worker, with its Durable Objects arranged for a folder on disk. workerd creates a file for
// each durable object that it starts. The object of a cache key stores nothing, so it is ephemeral here and has no file. Durable are
// the object of a namespace, which stores when the namespace was deleted, and that of a set of samples, which stores its slots.
// biome-ignore lint/suspicious/noTsIgnore: it is an error only before the build
// @ts-ignore: it may not be built yet
import worker, { Coalescer as BuiltCoalescer } from "../build/main.js";

// biome-ignore lint/suspicious/noTsIgnore: as above
// @ts-ignore: as above
export * from "../build/main.js";

/** @typedef {{ get: (name: string) => Fetcher }} EphemeralNamespace */
/** @typedef {{ COALESCER: DurableObjectNamespace, EPHEMERAL_COALESCER: EphemeralNamespace }} Env */

const DURABLE = /^(namespace|samples) /; // the beginning of the names of durable objects

/** @type {WeakMap<Env, object>} */
const arranged = new WeakMap();

/**
 * The environment that the Worker sees.
 *
 * @param {Env} env
 */
function arrange(env) {
  let result = arranged.get(env);
  if (!result) {
    const { COALESCER: durable, EPHEMERAL_COALESCER: ephemeral, ...others } = env;
    const coalescer = {
      /** @param {string} name */
      idFromName: (name) => name,
      /** @param {string} name */
      get: (name) => (DURABLE.test(name) ? durable.get(durable.idFromName(name)) : ephemeral.get(name)),
    };
    result = { ...others, COALESCER: coalescer };
    arranged.set(env, result);
  }
  return result;
}

/** @type {ExportedHandler<Env>} */
export default {
  fetch: (request, env, ctx) => /** @type {any} */ (worker).fetch(request, arrange(env), ctx),
};

export class Coalescer extends BuiltCoalescer {
  /**
   * @param {DurableObjectState} ctx
   * @param {Env} env
   */
  constructor(ctx, env) {
    super(ctx, arrange(env));
  }
}

/** The class of the ephemeral objects: a namespace has one of its own. */
export class EphemeralCoalescer extends Coalescer {}
