// A reply that depends on nothing: what the runtime itself costs.
export default {
  async fetch(request, env) {
    return new Response(env.ANSWER ?? 'ok', { headers: { 'content-type': 'application/json' } });
  },
};
