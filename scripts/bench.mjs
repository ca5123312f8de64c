// `npm run bench`: what a stream costs through the proxy, as ratios to a direct call within the same run.
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './build.mjs';
import { main, say } from './lib.mjs';
import { startWorker } from './worker.mjs';

const EVENTS = 100;
const GAP = 10; // ms between events
const ROUNDS = 9;

/** Streams a chat answer, one event every GAP ms. */
async function startUpstream() {
  const server = createServer(async (request, response) => {
    for await (const _ of request);
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (let n = 0; n < EVENTS; n += 1) {
      const finish_reason = n === EVENTS - 1 ? 'stop' : null;
      const chunk = { id: 'c', object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content: 'word ' }, finish_reason }] };
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
      if (finish_reason === null) await sleep(GAP);
    }
    response.end('data: [DONE]\n\n');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { base: `http://127.0.0.1:${server.address().port}/v1`, close: () => server.close() };
}

/** Asks a question and reads the whole stream. Milliseconds to its first byte and to its end. */
async function timed(base, question) {
  const start = performance.now();
  const response = await fetch(`${base}/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-bench', 'accept-encoding': 'identity' },
    body: JSON.stringify({ model: 'm', stream: true, messages: [{ role: 'user', content: question }] }),
  });
  let first;
  for await (const _ of response.body) first ??= performance.now() - start;
  return { first, total: performance.now() - start, cache: response.headers.get('x-cache-status') ?? '-' };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

await main(import.meta, async () => {
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130));
  await build();
  const upstream = await startUpstream();
  const worker = await startWorker(upstream.base);
  const proxy = `${worker.url}/proxy`;
  say(`${ROUNDS} interleaved rounds: ${EVENTS} events, ${GAP} ms apart`);
  const rows = { direct: [], miss: [], hit: [] };
  for (let round = -1; round < ROUNDS; round += 1) {
    const question = `round ${round}`;
    const direct = await timed(upstream.base, question);
    const miss = await timed(proxy, question);
    let hit;
    do hit = await timed(proxy, question); while (hit.cache !== 'HIT'); // the write may still be on its way
    if (round < 0) continue; // the first round warms up
    for (const [name, result] of Object.entries({ direct, miss, hit })) rows[name].push(result);
  }
  await worker.stop();
  upstream.close();
  const of = (name, what) => median(rows[name].map((result) => result[what]));
  console.log('\nmedian            first byte ms   whole ms   first byte / direct   whole / direct');
  for (const name of Object.keys(rows)) {
    const [first, total] = [of(name, 'first'), of(name, 'total')];
    console.log([
      `streamed ${name}`.padEnd(16),
      first.toFixed(1).padStart(14),
      total.toFixed(0).padStart(10),
      (first / of('direct', 'first')).toFixed(2).padStart(21),
      (total / of('direct', 'total')).toFixed(3).padStart(16),
    ].join(' '));
  }
});
