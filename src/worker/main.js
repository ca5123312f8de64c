// The worker: the short way for what has been seen before, and the long one, in src/edge/mod.rs, for everything else.
// `npm run build` puts this beside what is compiled.
import Reprise, { Flight } from "./index.js";

const repeats = Reprise.prototype.repeats();
repeats.renew = Reprise.prototype.repeats;

export { Flight };
export default {
  async fetch(request, env, ctx) {
    return (await repeats.answer(request, env)) ?? new Reprise(ctx, env).fetch(request);
  },
};
