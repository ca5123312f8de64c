// Hits: what a repeat of a question costs, beside the least that each way of keeping answers can cost.
import { startRedis } from '../../tests/e2e/support/redis.mjs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Stop } from '../../scripts/lib.mjs';
import { another, asked, chat, load, question } from '../load.mjs';
import { startNginx, version } from '../nginx.mjs';
import { cpu } from '../processes.mjs';
import { row } from '../rows.mjs';
import { answer } from '../upstream.mjs';
import { EMPTY, floor, REPRISE, startWorkerd } from '../workerd.mjs';

export const SIZES = [[600, 1_500], [16_000, 1_500], [256_000, 1_500], [4_000_000, 1_500], [600, 64_000]];

const kB = (bytes) => (bytes >= 1e6 ? `${bytes / 1e6} MB` : `${bytes / 1e3} kB`);
export const sized = ([asks, answers]) => `${kB(asks)} → ${kB(answers)}`;

const MEMORY = { 600: 1.3, 16_000: 1.3, 256_000: 1.15 };
const KV = { 600: 1.2, 16_000: 1.2, 256_000: 1.15 };
/** nginx keeps the key, which holds the whole question, in a file whose header counts to 64 Ki: what is longer is never found. */
const NGINX = 60_000;
const SECRET = 'a secret of the bench, which is long enough to be one';
const NO_MEMORY = { MEMORY_CACHE_BYTES: '0' };

/** What is measured: how each starts, which floor it stands on, and what says that an answer of it was a hit. */
function contenders(base, redis, size) {
  const reprise = (vars, bound = true) => startWorkerd({
    modules: REPRISE, vars: { OPENAI_BASE_URL: base, MEMORY_CACHE_TTL: '3600', ...vars }, bound });
  const upstash = { UPSTASH_REDIS_REST_URL: redis.origin, UPSTASH_REDIS_REST_TOKEN: redis.token };
  const js = (name, vars) => (ANSWER) => startWorkerd({ modules: floor(name), vars: { ANSWER, ...vars }, bound: name === 'kv' });
  const [remembered, stored] = [/^reprise; hit;.*detail=memory/, /^reprise; hit;(?!.*detail=)/];
  return {
    'static reply': { start: js('static'), reference: true },
    'empty Rust worker': { start: () => startWorkerd({ modules: EMPTY }), reference: true },
    ...(version && size <= NGINX && { nginx: nginx(base, size) }),
    'map floor': { start: js('map') },
    'KV floor': { start: js('kv') },
    'Redis floor': { start: js('redis', upstash) },
    'memory hit': { start: () => reprise({}), to: 'map floor', targets: MEMORY, hit: remembered },
    'memory hit, sealed': { start: () => reprise({ CACHE_ENCRYPTION_KEY: SECRET }), to: 'map floor', hit: remembered },
    'KV hit': { start: () => reprise(NO_MEMORY), to: 'KV floor', targets: KV, hit: stored },
    'KV hit, sealed': { start: () => reprise({ ...NO_MEMORY, CACHE_ENCRYPTION_KEY: SECRET }), to: 'KV floor', hit: stored },
    'Upstash hit': { start: () => reprise({ ...NO_MEMORY, ...upstash }, false), to: 'Redis floor', hit: stored },
  };
}

const nginx = (base, size) => (
  { start: () => startNginx(base.replace(/v1$/, ''), size), to: 'map floor', reference: true, hit: /^HIT$/ });

/** Asks until the answer is a hit, and for long enough that the worker knows the question. */
export async function primed(name, url, body, hit) {
  for (let n = 0; n < 20; n += 1) {
    const { cache } = await asked(url, body);
    if (n >= 4 && hit.test(cache)) return;
    await sleep(20); // answers are stored after they are sent
  }
  await checked(name, url, body, hit);
}

/** The answer, which must be a hit. */
export async function checked(name, url, body, hit) {
  const given = await asked(url, body);
  if (!hit.test(given.cache)) throw new Stop(`${name}: not the hit that it should be: ${given.cache}`);
  return given.body;
}

export async function hits({ upstream, quick, say }) {
  const rows = [];
  const [rounds, seconds] = quick ? [3, 0.3] : [6, 0.6];
  const redis = await startRedis();
  for (const size of quick ? SIZES.slice(0, 2) : SIZES) {
    say(`Hits, ${sized(size)}`);
    const time = size[0] > 1e6 ? 2 * seconds : seconds; // few come in it
    const [body, wanted] = [another(question(size[0])), answer(size[1])];
    const all = contenders(upstream.base(size[1]), redis, size[0]);
    for (const [name, one] of Object.entries(all)) {
      one.worker = await one.start(wanted);
      await one.worker.ready('/healthz');
      one.url = name === 'nginx' ? `${one.worker.url}/v1/chat/completions` : chat(one.worker);
      one.rounds = [];
    }
    const check = async (look) => {
      for (const [name, one] of Object.entries(all)) {
        const given = await look(name, one.url, body, one.hit ?? /^/);
        if (given !== undefined && name !== 'empty Rust worker' && given !== wanted) throw new Stop(`${name} gave another answer`);
      }
    };
    await check(primed);
    await check(checked);
    for (let round = -1; round < rounds; round += 1) {
      redis.reset(); // it remembers what it is asked
      for (const one of Object.values(all)) {
        if (one.reference && round >= 3) continue;
        const before = cpu(one.worker.pid);
        const count = await load(one.url, body, { seconds: round < 0 ? Math.max(time, quick ? 0.3 : 0.8) : time });
        if (round >= 0) one.rounds.push((cpu(one.worker.pid) - before) / count); // the first one warms up
      }
    }
    await check(checked);
    for (const [name, one] of Object.entries(all)) {
      await one.worker.stop();
      const target = one.targets?.[size[0]] && size[1] === 1_500 ? { ratio: one.targets[size[0]] } : undefined;
      const to = one.to && { name: one.to, rounds: all[one.to].rounds };
      rows.push(row({ group: 'hits', name, size: sized(size), unit: 'µs', rounds: one.rounds, to, target }));
    }
    if (!all.nginx) {
      const note = version ? 'no hits' : 'not installed';
      rows.push({ group: 'hits', name: 'nginx', size: sized(size), unit: 'µs', to: { name: 'map floor' }, note, rounds: [] });
    }
  }
  await redis.close();
  return rows;
}
