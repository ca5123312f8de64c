// The least that a cache in a store has to do: read the question, hash it, ask the store.
export default {
  async fetch(request, env) {
    const digest = await crypto.subtle.digest('SHA-256', await request.arrayBuffer());
    const key = new Uint8Array(digest).toHex();
    let answer = await env.OPENAI_CACHE.get(key, 'arrayBuffer');
    if (!answer) {
      await env.OPENAI_CACHE.put(key, env.ANSWER);
      answer = env.ANSWER;
    }
    return new Response(answer, { headers: { 'content-type': 'application/json' } });
  },
};
