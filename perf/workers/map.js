// The least that a cache in memory has to do: read the question, hash it, look it up.
const answers = new Map();

export default {
  async fetch(request, env) {
    const digest = await crypto.subtle.digest('SHA-256', await request.arrayBuffer());
    const key = String.fromCharCode.apply(null, new Uint8Array(digest));
    let answer = answers.get(key);
    if (!answer) {
      answer = new TextEncoder().encode(env.ANSWER);
      answers.set(key, answer);
    }
    return new Response(answer, { headers: { 'content-type': env.TYPE ?? 'application/json' } });
  },
};
