// The least that a cache in a Redis behind Upstash's REST API has to do: read the question, hash it, ask with GET, and take
// the value, which is kept as base64, out of the JSON that comes.
async function say(env, ...command) {
  const response = await fetch(env.UPSTASH_REDIS_REST_URL, {
    method: 'POST',
    headers: { authorization: `Bearer ${env.UPSTASH_REDIS_REST_TOKEN}`, 'content-type': 'application/json' },
    body: JSON.stringify(command),
  });
  return (await response.json()).result;
}

export default {
  async fetch(request, env) {
    const digest = await crypto.subtle.digest('SHA-256', await request.arrayBuffer());
    const key = new Uint8Array(digest).toHex();
    let value = await say(env, 'GET', key);
    if (!value) {
      value = new TextEncoder().encode(env.ANSWER).toBase64();
      await say(env, 'SET', key, value);
    }
    return new Response(Uint8Array.fromBase64(value), { headers: { 'content-type': 'application/json' } });
  },
};
