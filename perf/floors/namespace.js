// A KV namespace in memory, with the requests by which workerd uses one.
const values = new Map();

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const key = decodeURIComponent(url.pathname.slice(1));
    switch (request.method) {
      case "GET": {
        const value = values.get(key);
        return value ? new Response(value) : new Response(null, { status: 404 });
      }
      case "PUT": {
        const value = await request.arrayBuffer();
        if (!env.FORGETS) values.set(key, value);
        return new Response(null);
      }
      case "DELETE":
        values.delete(key);
        return new Response(null);
      default:
        return new Response(null, { status: 405 });
    }
  },
};
