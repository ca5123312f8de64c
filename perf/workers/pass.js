// The least that a proxy has to do: hand the question on and the answer back, both unread.
export default {
  async fetch(request, env) {
    const { pathname, search } = new URL(request.url);
    return fetch(new Request(env.OPENAI_BASE_URL + pathname.slice('/proxy'.length) + search, request));
  },
};
