// `npm run bench`: what a call costs through the proxy, as ratios to a direct call within the same run.
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './build.mjs';
import { main, say } from './lib.mjs';
import { startWorker } from './worker.mjs';

const EVENTS = 100;
const GAP = 10; // ms between events
const ROUNDS = { streamed: 9, plain: 100 };

/** Answers a chat question: as a stream, one event every GAP ms, or as an object at once. */
async function startUpstream() {
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    if (!JSON.parse(Buffer.concat(chunks)).stream) {
      const message = { role: 'assistant', content: 'word '.repeat(300) };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ id: 'c', object: 'chat.completion', choices: [{ index: 0, message, finish_reason: 'stop' }] }));
      return;
    }
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

/** Asks a question and reads the whole answer. Milliseconds to its first byte and to its end. */
async function timed(base, question, stream) {
  const start = performance.now();
  const response = await fetch(`${base}/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-bench', 'accept-encoding': 'identity' },
    body: JSON.stringify({ model: 'm', stream, messages: [{ role: 'user', content: question }] }),
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
  const flights = await startWorker(upstream.base);
  const alone = await startWorker(upstream.base, { COALESCE: 'false' });
  console.log('\nmedian                          first byte ms   whole ms   first byte / direct   whole / direct');
  for (const [kind, rounds] of Object.entries(ROUNDS)) {
    say(`${rounds} interleaved rounds${kind === 'streamed' ? `: ${EVENTS} events, ${GAP} ms apart` : ''}`);
    const rows = { direct: [], 'miss, alone': [], 'miss, in a flight': [], hit: [] };
    for (let round = -3; round < rounds; round += 1) {
      const ask = (base) => timed(base, `${kind} ${round}`, kind === 'streamed');
      const direct = await ask(upstream.base);
      const [missAlone, missInFlight] = [await ask(`${alone.url}/proxy`), await ask(`${flights.url}/proxy`)];
      let hit;
      do hit = await ask(`${flights.url}/proxy`); while (hit.cache !== 'HIT'); // the write may still be on its way
      if (round < 0) continue; // the first rounds warm up
      const results = { direct, 'miss, alone': missAlone, 'miss, in a flight': missInFlight, hit };
      for (const [name, result] of Object.entries(results)) rows[name].push(result);
    }
    const of = (name, what) => median(rows[name].map((result) => result[what]));
    for (const name of Object.keys(rows)) {
      const [first, total] = [of(name, 'first'), of(name, 'total')];
      console.log([
        `${kind}: ${name}`.padEnd(30),
        first.toFixed(1).padStart(14),
        total.toFixed(1).padStart(10),
        (first / of('direct', 'first')).toFixed(2).padStart(21),
        (total / of('direct', 'total')).toFixed(3).padStart(16),
      ].join(' '));
    }
  }
  await Promise.all([flights.stop(), alone.stop()]);
  upstream.close();
});
