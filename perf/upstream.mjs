// The scripted upstream, a process of its own: its work is not the clients' and not the worker's.
//
// It answers below /{size}/v1 with an answer of about that many bytes, below /{size},slow/v1 after a while, and below
// /{size},think/v1 with some thinking in it. A stream is 100 events, 10 ms apart. /calls says how often it was asked.
import { fork } from 'node:child_process';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { main, Stop } from '../scripts/lib.mjs';

export const EVENTS = 100;
export const GAP = 10; // ms between events
export const SLOW = 100; // ms
const THINKING = [40, 50]; // events

/** An answer of about `size` bytes. */
export function answer(size, thinks = false) {
  const content = (thinks ? '<think>Let me think. </think>' : '') + 'word '.repeat(Math.ceil((size - 300) / 5));
  return JSON.stringify({
    id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: 'gpt-4o-mini',
    choices: [{ index: 0, message: { role: 'assistant', content }, logprobs: null, finish_reason: 'stop' }],
    usage: { prompt_tokens: 10, completion_tokens: 20, total_tokens: 30 },
  });
}

function event(n, thinks) {
  const content = thinks && n === THINKING[0] ? '<think>word ' : thinks && n === THINKING[1] ? 'word</think>' : 'word ';
  const delta = n === 0 ? { role: 'assistant', content: '' } : n === EVENTS - 1 ? {} : { content };
  const choices = [{ index: 0, delta, logprobs: null, finish_reason: n === EVENTS - 1 ? 'stop' : null }];
  const chunk = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'gpt-4o-mini', choices };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

/** The whole stream, as its hits have it. */
export const stream = () => `${Array.from({ length: EVENTS }, (_, n) => event(n, false)).join('')}data: [DONE]\n\n`;

/** Starts the upstream: where it is, and how often it has been asked. */
export async function startUpstream() {
  const child = fork(fileURLToPath(import.meta.url)); // ends when the channel to us does
  const origin = await new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', () => reject(new Stop('The upstream did not start.')));
  });
  child.once('exit', () => {
    console.error('[reprise] The upstream has ended.');
    process.exit(1);
  });
  child.unref();
  child.channel.unref();
  return {
    base: (size, ...ways) => `${origin}/${[size, ...ways].join(',')}/v1`,
    calls: async () => Number(await (await fetch(`${origin}/calls`)).text()),
  };
}

/** Answers until nobody listens any more. */
async function serve() {
  const answers = new Map();
  let calls = 0;
  const server = createServer((request, response) => {
    if (request.url === '/calls') return response.end(String(calls));
    calls += 1;
    const [size, ...ways] = request.url.split('/')[1].split(',');
    const thinks = ways.includes('think');
    const known = `${size} ${thinks}`;
    if (!answers.has(known)) answers.set(known, Buffer.from(answer(Number(size), thinks)));
    let begin = '';
    request.on('data', (piece) => { begin ||= piece.toString('latin1', 0, 100); });
    request.on('end', () => {
      if (begin.includes('"stream":true')) return streams(response, thinks);
      const say = () => {
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end(answers.get(known));
      };
      return ways.includes('slow') ? setTimeout(say, SLOW) : say();
    });
    return undefined;
  });
  server.keepAliveTimeout = 600_000;
  process.once('disconnect', () => process.exit());
  server.listen(0, '127.0.0.1', () => process.send(`http://127.0.0.1:${server.address().port}`));
}

function streams(response, thinks) {
  const began = performance.now();
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  const next = (n) => {
    response.write(event(n, thinks));
    if (n === EVENTS - 1) response.end('data: [DONE]\n\n');
    // By the clock: events that are late do not put off the others.
    else setTimeout(next, Math.max(0, began + (n + 1) * GAP - performance.now()), n + 1);
  };
  next(0);
}

await main(import.meta, serve);
