// The least work of a proxy: forward the request and the response, both unread.
export default {
  async fetch(request, env) {
    const { pathname, search } = new URL(request.url);
    return fetch(new Request(env.OPENAI_BASE_URL + pathname.slice("/proxy".length) + search, request));
  },
};
