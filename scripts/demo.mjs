// `npm run demo`: the worker in front of a stand-in for OpenAI on this machine, without a key or the internet.
// Every request is sent twice; the second answer must be the first one's bytes, from the cache.
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './build.mjs';
import { main, say, Stop } from './lib.mjs';
import { startWorker } from './worker.mjs';

const LATENCY = 400; // ms that the stand-in takes to answer

const requests = [
  ['chat completion', 'chat/completions',
    { model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Say hello.' }] }],
  ['completion', 'completions', { model: 'gpt-3.5-turbo-instruct', prompt: 'Once upon a time' }],
  ['embedding', 'embeddings', { model: 'text-embedding-3-small', input: 'a cache' }],
  ['moderation', 'moderations', { model: 'omni-moderation-latest', input: 'a kind word' }],
];

const usage = { prompt_tokens: 4, completion_tokens: 3, total_tokens: 7 };
const answers = {
  'chat/completions': ({ model }, n) => ({ id: `chatcmpl-${n}`, object: 'chat.completion', created: now(), model, usage,
    choices: [{ index: 0, message: { role: 'assistant', content: `Hello, number ${n}!` }, finish_reason: 'stop' }] }),
  completions: ({ model }, n) => ({ id: `cmpl-${n}`, object: 'text_completion', created: now(), model, usage,
    choices: [{ index: 0, text: ` there was number ${n}.`, logprobs: null, finish_reason: 'stop' }] }),
  embeddings: ({ model }, n) => ({ object: 'list', model, usage: { prompt_tokens: 2, total_tokens: 2 },
    data: [{ object: 'embedding', index: 0, embedding: [0.25, -0.5, n] }] }),
  moderations: ({ model }, n) => ({ id: `modr-${n}`, model,
    results: [{ flagged: false, categories: { violence: false }, category_scores: { violence: 0.001 } }] }),
};
const now = () => Math.floor(Date.now() / 1000);

/** The stand-in: no two of its answers are alike, so equal answers can only come from the cache. */
async function startUpstream() {
  const upstream = { calls: 0 };
  const server = createServer(async (request, response) => {
    const n = ++upstream.calls;
    let body = '';
    for await (const chunk of request) body += chunk;
    const answer = answers[request.url.replace('/v1/', '')];
    await sleep(LATENCY);
    response.writeHead(answer ? 200 : 404, { 'content-type': 'application/json', 'x-request-id': `req_${n}` });
    response.end(JSON.stringify(answer ? answer(JSON.parse(body), n) : { error: { message: 'unknown' } }));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(upstream, { base: `http://127.0.0.1:${server.address().port}/v1`, close: () => server.close() });
}

async function ask(url, [, endpoint, body]) {
  const start = performance.now();
  const response = await fetch(`${url}/proxy/${endpoint}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-demo' },
    body: JSON.stringify(body),
  });
  const bytes = await response.text();
  const ms = Math.round(performance.now() - start);
  return { status: response.status, cache: response.headers.get('x-cache-status') ?? '-', bytes, ms };
}

const row = (name, attempt, status, cache, ms, calls) => console.log(
  [name.padEnd(16), String(attempt).padEnd(3), String(status).padEnd(6), String(cache).padEnd(14),
    String(ms).padStart(5), String(calls).padStart(14)].join('  '));

await main(import.meta, async () => {
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130));
  await build();
  say('Starting a stand-in for OpenAI and the worker (a few seconds)');
  const upstream = await startUpstream();
  const worker = await startWorker(upstream.base);
  const first = [];
  const wrong = [];
  console.log();
  row('request', 'try', 'status', 'X-Cache-Status', 'ms', 'upstream calls');
  for (const attempt of [1, 2]) {
    for (const [index, request] of requests.entries()) {
      const answer = await ask(worker.url, request);
      row(request[0], attempt, answer.status, answer.cache, answer.ms, upstream.calls);
      if (attempt === 1) first.push(answer.bytes);
      else if (answer.status !== 200 || answer.cache !== 'HIT') wrong.push(`${request[0]}: the repeat was not a hit`);
      else if (answer.bytes !== first[index]) wrong.push(`${request[0]}: the repeat has other bytes`);
    }
    await sleep(300); // answers are stored after they are sent
  }
  if (upstream.calls !== requests.length) wrong.push(`the upstream was asked ${upstream.calls} times`);
  await worker.stop();
  upstream.close();
  console.log();
  if (wrong.length > 0) throw new Stop(`Not as it should be: ${wrong.join('; ')}`);
  say(`Every repeat had the same bytes; ${2 * requests.length} requests, ${upstream.calls} upstream calls.`);
});
