// The built worker, with its crossings counted.
import { count } from './counter.js';
import reprise, { Flight } from './main.js';

export { Flight };
export default {
  fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/crossings') return Response.json(count);
    return reprise.fetch(request, env, ctx);
  },
};
