// The worker: the short way for what has been seen before, and the long one, in src/edge/mod.rs, for everything else.
// `npm run build` puts this beside what is compiled.
import Reprise, { Coalescer } from "./index.js";

const fastPath = Reprise.prototype.fastPath();
fastPath.ensureInstance = Reprise.prototype.fastPath;

export { Coalescer };
export default {
  async fetch(request, env, ctx) {
    return (await fastPath.respond(request, env)) ?? new Reprise(ctx, env).fetch(request);
  },
};
