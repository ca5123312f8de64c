// A constant response: the cost of the runtime itself.
export default {
  async fetch(_request, env) {
    return new Response(env.RESPONSE ?? "ok", { headers: { "content-type": "application/json" } });
  },
};
