// A cache for LLM APIs in forty lines, and the ways in which such caches are wrong: the engine must pass the one and find out
// the others.

import http from 'node:http';

const PRIVATE = /^(set-cookie|connection|keep-alive|transfer-encoding|content-length|date|proxy-.*|retry-after.*|cf-.*|x-served-by|.*ratelimit.*)$/;

const canonical = (value) => (Array.isArray(value) ? value.map(canonical)
  : value && typeof value === 'object' ? Object.fromEntries(Object.keys(value).sort().map((name) => [name, canonical(value[name])])) : value);

/** Starts one in front of `upstream`; `wrong` replaces its parts. */
export async function fake(upstream, wrong = {}) {
  const entries = new Map();
  const is = {
    question: ({ url, headers }, body) => JSON.stringify([url, Object.entries(headers).filter(([name]) => /^(authorization|openai-|anthropic-)/.test(name)), body.toString()]),
    keep: ({ status, whole, text, type }) => status === 200 && whole && !/"error":\{|"type":"error"|^data: \[DONE\]|"status":"(failed|queued)"/.test(text) &&
      (/event-stream/.test(type) ? /\[DONE\]|message_stop|response\.completed/.test(text.slice(-9000)) && text.endsWith('\n') : /^\s*\{.*\}\s*$/s.test(text)),
    headers: (headers) => Object.fromEntries(Object.entries(headers).filter(([name]) => !PRIVATE.test(name))),
    replay: (entry) => entry.body,
    lives: () => true,
    ...wrong,
  };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const question = is.question(request, body);
    const cached = /chat|completions|responses|messages|embeddings|speech/.test(request.url) && !/no-store|no-cache/.test(request.headers['cache-control']) &&
      !/"(background|conversation|previous_response_id|thread|container|prompt":\{"id)"/.test(body) && request.method === 'POST';
    const found = cached && entries.get(question);
    if (found && is.lives(found)) {
      const sent = is.replay(found);
      response.writeHead(found.status, { ...found.headers, age: '0', 'content-length': sent.length });
      return response.end(sent);
    }
    const { connection, host, te, 'keep-alive': alive, 'proxy-authorization': hop, ...headers } = request.headers;
    const asked = http.request(`${upstream.origin}/v1${request.url}`, { method: request.method, headers, agent: false }, (answer) => {
      const parts = [];
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.on('data', (part) => { parts.push(part); response.write(part); });
      answer.on('error', () => response.destroy());
      answer.on('close', () => {
        const whole = answer.complete;
        const all = Buffer.concat(parts);
        const about = { status: answer.statusCode, whole, text: all.toString(), type: answer.headers['content-type'], asked: body };
        if (cached && is.keep(about)) entries.set(question, { status: answer.statusCode, headers: is.headers(answer.headers), body: all, at: Date.now() });
        if (whole) response.end();
        else response.destroy();
      });
    });
    asked.on('error', () => { response.writeHead(502); response.end('{}'); });
    asked.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { target: `http://127.0.0.1:${server.address().port}`, stop: () => { server.closeAllConnections(); server.close(); } };
}

const without = (...names) => ({ question: (request, body) => {
  const said = JSON.parse(body.length ? body : '{}');
  for (const name of names) delete said[name];
  return JSON.stringify([request.url, request.headers.authorization, request.headers['openai-organization'], JSON.stringify(said)]);
} });

/** What is wrong → cases that must notice. */
export const BROKEN = {
  'ignores the temperature': [without('temperature'), ['key-chat-temperature', 'key-messages-temperature']],
  'ignores what it does not know': [without('frobnicate', 'verbosity'), ['key-chat-parameter-of-the-future', 'key-chat-verbosity']],
  'ignores the tools': [without('tools'), ['key-chat-tools', 'key-responses-tools']],
  'ignores the caller': [{ question: (request, body) => request.url + body }, ['tenant-chat', 'tenant-both-ways', 'headers-openai-organization']],
  'ignores the path': [{ question: (request, body) => request.headers.authorization + body }, ['headers-api']],
  'sorts schemas': [{ question: (request, body) => request.url + request.headers.authorization + JSON.stringify(canonical(JSON.parse(body.length ? body : '{}'))) }, ['key-chat-order-of-a-response-schema']],
  'reads numbers as floats': [{ question: (request, body) => request.url + request.headers.authorization + JSON.stringify(JSON.parse(body.length ? body : '{}')) }, ['differ-big-numbers']],
  'looks at the last message alone': [{ question: (request, body) => {
    const said = JSON.parse(body.length ? body : '{}');
    return JSON.stringify([request.url, request.headers.authorization, said.messages?.at(-1).content ?? said]);
  } }, ['key-chat-model', 'key-chat-earlier-message', 'key-chat-tools']],
  'looks at the first thousand letters': [{ question: (request, body) => request.url + request.headers.authorization + body.toString().slice(0, 1000) }, ['differ-late']],
  'folds white space and case': [{ question: (request, body) => request.url + request.headers.authorization + body.toString().toLowerCase().replace(/\s+/g, ' ') }, ['differ-case', 'differ-inner-space']],
  'ignores stream, converts nothing': [without('stream', 'stream_options'), ['mode-chat-stream-then-plain', 'usage-asked']],
  'keeps failures': [{ keep: ({ whole }) => whole }, ['status-500', 'status-429', 'status-500-like-an-answer', 'status-200-error-body', 'cut-chat-stream-quiet']],
  'keeps whatever comes': [{ keep: () => true }, ['cut-json-length', 'cut-sound-chunked', 'cut-chat-stream', 'status-200-html']],
  'replays cookies': [{ headers: ({ 'content-length': _, 'transfer-encoding': __, connection: ___, ...headers }) => headers }, ['header-set-cookie', 'header-rate-limit']],
  'has an entry for each spelling and each mode': [{}, ['spell-space', 'spell-key-order', 'spell-escape', 'cross-chat-plain-then-stream', 'cross-messages-stream-then-plain']],
  'spoils bytes': [{ replay: ({ body }) => Buffer.from(body.toString().replace('no more', 'no m0re')) }, ['body-plain', 'stream-chat-text']],
  'forgets everything': [{ lives: () => false }, ['cache-chat', 'stream-chat-stored']],
  'mixes cases up': [{ question: () => 'the one' }, ['cache-chat', 'crowd-different', 'differ-case']],
};
