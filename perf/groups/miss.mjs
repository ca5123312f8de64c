// Misses: what the worker adds to a call that goes upstream, in processor time and in time to the first byte.
import { Stop } from '../../scripts/lib.mjs';
import { another, asked, chat, load, question } from '../load.mjs';
import { cpu } from '../processes.mjs';
import { median, row } from '../rows.mjs';
import { floor, REPRISE, startWorkerd } from '../workerd.mjs';

export const MISS = /^reprise; fwd=uri-miss/;

/** The ways to an upstream: none of ours, the bare pass-through, and the worker with and without flights. */
export async function ways(base, more = {}) {
  const reprise = (vars) => startWorkerd({ modules: REPRISE, bound: true, forgets: true,
    vars: { OPENAI_BASE_URL: base, ...vars } });
  const workers = {
    'bare pass-through': await startWorkerd({ modules: floor('pass'), vars: { OPENAI_BASE_URL: base } }),
    miss: await reprise({}),
    'miss, COALESCE=false': await reprise({ COALESCE: 'false' }),
  };
  for (const [name, vars] of Object.entries(more)) workers[name] = await reprise(vars);
  const urls = { direct: `${base}/chat/completions` };
  for (const [name, worker] of Object.entries(workers)) {
    await worker.ready('/healthz');
    urls[name] = chat(worker);
  }
  return {
    workers,
    urls,
    stop: () => Promise.all(Object.values(workers).map((worker) => worker.stop())),
  };
}

/** Rows of everything but what it is compared with: direct calls and the bare pass-through. */
export function compared(group, what, unit, measured, target = () => undefined) {
  const rows = [];
  for (const [name, rounds] of Object.entries(measured)) {
    const others = name === 'direct' ? [] : ['direct', 'bare pass-through'].filter((other) => other !== name && measured[other]);
    if (others.length === 0) rows.push(row({ group, name: `${name}: ${what}`, unit, rounds }));
    for (const other of others) {
      const to = { name: other, rounds: measured[other] };
      rows.push(row({ group, name: `${name}: ${what}`, unit, rounds, to, target: target(name, other) }));
    }
  }
  return rows;
}

export async function miss({ upstream, quick, say }) {
  const [rounds, seconds, asks] = quick ? [3, 0.3, 30] : [5, 0.6, 60];
  const { workers, urls, stop } = await ways(upstream.base(1_500));
  const body = question(600);
  const used = Object.fromEntries(Object.keys(workers).map((name) => [name, []]));
  const firsts = Object.fromEntries(Object.keys(urls).map((name) => [name, []]));
  say('Misses: processor time');
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, worker] of Object.entries(workers)) {
      const before = cpu(worker.pid);
      const count = await load(urls[name], body, { seconds, way: 'distinct' });
      if (round >= 0) used[name].push((cpu(worker.pid) - before) / count);
    }
  }
  say('Misses: time to the first byte');
  for (let round = -1; round < rounds; round += 1) {
    const times = Object.fromEntries(Object.keys(urls).map((name) => [name, []]));
    for (let n = 0; n < asks; n += 1) {
      for (const [name, url] of Object.entries(urls)) {
        const answer = await asked(url, another(body));
        if (name.startsWith('miss') && !MISS.test(answer.cache)) throw new Stop(`${name}: not a miss: ${answer.cache}`);
        times[name].push(answer.first);
      }
    }
    if (round >= 0) for (const name of Object.keys(urls)) firsts[name].push(median(times[name]));
  }
  await stop();
  return [...compared('miss', 'CPU', 'µs', used), ...compared('miss', 'first byte', 'ms', firsts)];
}
