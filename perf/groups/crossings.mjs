// How often JavaScript calls wasm and wasm JavaScript for one request: counted, by a wrapper around each import and export.
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { root, Stop } from '../../scripts/lib.mjs';
import { another, asked, chat, question } from '../load.mjs';
import { row } from '../rows.mjs';
import { REPRISE, startWorkerd } from '../workerd.mjs';
import { MISS } from './miss.mjs';
import { primed } from './hits.mjs';

const REQUESTS = 20;
const counted = ['counted.js', 'counter.js'].map((name) => [name, path.join(root, 'bench', 'workers', name)]);

export async function crossings({ upstream, say }) {
  say('Crossings');
  const body = question(600);
  /** The same question in another spelling. */
  let spellings = 0;
  const spelled = () => body.replace('{', `{${' '.repeat((spellings += 1))}`);
  const kinds = {
    'memory hit': [{}, () => body, /^reprise; hit;.*detail=memory/],
    'KV hit, short way': [{ MEMORY_CACHE_BYTES: '0' }, () => body, /^reprise; hit/],
    'KV hit, long way': [{ MEMORY_CACHE_BYTES: '0' }, spelled, /^reprise; hit/],
    miss: [{}, () => another(body), MISS],
    'miss, COALESCE=false': [{ COALESCE: 'false' }, () => another(body), MISS],
  };
  const rows = [];
  for (const [name, [vars, next, status]] of Object.entries(kinds)) {
    const worker = await startWorkerd({ modules: [...counted, ...REPRISE], bound: true,
      vars: { OPENAI_BASE_URL: upstream.base(1_500), MEMORY_CACHE_TTL: '3600', ...vars } });
    await worker.ready('/healthz');
    await primed(name, chat(worker), body, /^reprise; hit/);
    const counts = async () => {
      await sleep(100); // answers are stored after they are sent
      return (await fetch(`${worker.url}/crossings`)).json();
    };
    const before = await counts();
    for (let n = 0; n < REQUESTS; n += 1) {
      const { cache } = await asked(chat(worker), next());
      if (!status.test(cache)) throw new Stop(`${name}: ${cache}`);
    }
    const after = await counts();
    const [into, out] = ['into', 'out'].map((way) => (after[way] - before[way]) / REQUESTS);
    rows.push({ ...row({ group: 'crossings', name, unit: 'crossings', rounds: [into + out] }), into, out });
    await worker.stop();
  }
  return rows;
}
