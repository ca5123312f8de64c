// Hits: the cost of a repeated request, beside the least that each kind of store can cost.
import { UserError } from "../../scripts/common.mjs";
import { startRedis } from "../../testkit/redis.mjs";
import { waitFor } from "../../testkit/wait.mjs";
import { chat, chatBody, distinct, load, send } from "../client.mjs";
import { startNginx, version } from "../nginx.mjs";
import { row } from "../report.mjs";
import { completion } from "../upstream.mjs";
import { cpuMicroseconds } from "../usage.mjs";
import { EMPTY, floor, REPRISE, startWorkerd } from "../workers.mjs";

export const SIZES = [
  [600, 1_500],
  [16_000, 1_500],
  [256_000, 1_500],
  [4_000_000, 1_500],
  [600, 64_000],
];

const kB = (bytes) => (bytes >= 1e6 ? `${bytes / 1e6} MB` : `${bytes / 1e3} kB`);
/** @param {number[]} size The lengths of a request and its response. */
export const sized = ([request, response]) => `${kB(request)} → ${kB(response)}`;

const MEMORY = { 600: 1.3, 16000: 1.3, 256000: 1.15 };
const KV = { 600: 1.2, 16000: 1.2, 256000: 1.15 };
/** nginx stores the key, which contains the whole body, in a file with a header of at most 64 KiB: a longer one is never found. */
const NGINX_MAX_BYTES = 60_000;
const SECRET = "a secret of the measurements, long enough to be valid";
const NO_MEMORY = { MEMORY_CACHE_BYTES: "0" };

/** The measured programs: the start of each, the floor that it is compared with, and the Cache-Status of its hits. */
function subjects(base, redis, size) {
  const reprise = (vars, bound = true) =>
    startWorkerd({
      modules: REPRISE,
      vars: { OPENAI_BASE_URL: base, MEMORY_CACHE_TTL: "3600", ...vars },
      bound,
    });
  const upstash = { UPSTASH_REDIS_REST_URL: redis.origin, UPSTASH_REDIS_REST_TOKEN: redis.token };
  const js = (name, vars) => (RESPONSE) =>
    startWorkerd({ modules: floor(name), vars: { RESPONSE, ...vars }, bound: name === "kv" });
  const [inMemory, inStore] = [/^reprise; hit;.*detail=memory/, /^reprise; hit;(?!.*detail=)/];
  return {
    "static reply": { start: js("static"), reference: true, readsBody: false },
    "empty Rust worker": { start: () => startWorkerd({ modules: EMPTY }), reference: true, readsBody: false },
    ...(version && size <= NGINX_MAX_BYTES && { nginx: nginx(base, size) }),
    "map floor": { start: js("map") },
    "KV floor": { start: js("kv") },
    "Redis floor": { start: js("redis", upstash) },
    "memory hit": { start: () => reprise({}), to: "map floor", targets: MEMORY, hit: inMemory },
    "memory hit, encrypted": { start: () => reprise({ CACHE_ENCRYPTION_KEY: SECRET }), to: "map floor", hit: inMemory },
    "KV hit": { start: () => reprise(NO_MEMORY), to: "KV floor", targets: KV, hit: inStore },
    "KV hit, encrypted": {
      start: () => reprise({ ...NO_MEMORY, CACHE_ENCRYPTION_KEY: SECRET }),
      to: "KV floor",
      hit: inStore,
    },
    "Upstash hit": { start: () => reprise({ ...NO_MEMORY, ...upstash }, false), to: "Redis floor", hit: inStore },
  };
}

const nginx = (base, size) => ({
  start: () => startNginx(base.replace(/v1$/, ""), size),
  to: "map floor",
  reference: true,
  hit: /^HIT$/,
});

const WARM_UP = 5; // requests after which the Worker knows a request

/** Repeats a request until its response is a hit, and until the Worker knows it. */
export async function primed(name, url, body, hit) {
  let requests = 0;
  // A response is stored after it is sent.
  const isPrimed = async () => {
    const { cache } = await send(url, body);
    requests += 1;
    return requests >= WARM_UP && hit.test(cache);
  };
  await waitFor(isPrimed, `a hit from ${name}`, { pollMs: 20 });
}

/** The body of the response, which must be a hit. */
export async function checked(name, url, body, hit) {
  const response = await send(url, body);
  if (!hit.test(response.cache)) throw new UserError(`${name}: not the expected hit: ${response.cache}`);
  return response.body;
}

export async function hits({ upstream, quick, log }) {
  const rows = [];
  const redis = await startRedis();
  for (const size of quick ? SIZES.slice(0, 2) : SIZES) {
    log(`Hits, ${sized(size)}`);
    const all = subjects(upstream.base(size[1]), redis, size[0]);
    rows.push(...(await measured(all, size, { redis, quick })));
    if (!all.nginx) rows.push(note("nginx", size, { name: "map floor" }, version ? "no hits" : "not installed"));
  }
  await redis.close();
  return rows;
}

/** A row without numbers. */
const note = (name, size, to, text) => ({
  group: "hits",
  name,
  size: sized(size),
  unit: "µs",
  to,
  note: text,
  rounds: [],
});

/** The rows of one size. A subject that fails gets a note, and the others are measured. */
async function measured(all, size, { redis, quick }) {
  const [rounds, base] = quick ? [3, 0.3] : [6, 0.6];
  const seconds = size[0] > 1e6 ? 2 * base : base; // few responses fit into it
  const [body, wanted] = [distinct(chatBody(size[0])), completion(size[1])];
  const each = async (act) => {
    for (const [name, one] of Object.entries(all)) {
      if (one.failed) continue;
      try {
        await act(name, one);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        console.error(`[reprise] ${name}, ${sized(size)}: ${error.message}`);
        one.failed = true;
      }
    }
  };
  const check = (look) =>
    each(async (name, one) => {
      const response = await look(name, one.url, body, one.hit ?? /^/);
      const isOther = response !== undefined && name !== "empty Rust worker" && response !== wanted;
      if (isOther) throw new UserError(`${name} sent another response`);
    });
  await each(async (name, one) => {
    one.worker = await one.start(wanted);
    await one.worker.ready("/healthz");
    one.url = name === "nginx" ? `${one.worker.url}/v1/chat/completions` : chat(one.worker);
    one.rounds = [];
  });
  await check(primed);
  await check(checked);
  for (let round = -1; round < rounds; round += 1) {
    redis.reset(); // it records its calls
    await each(async (_, one) => {
      if (one.reference && round >= 3) return;
      const before = cpuMicroseconds(one.worker.pid);
      const warmUp = round < 0; // the first round is not counted
      const duration = warmUp ? Math.max(seconds, quick ? 0.3 : 0.8) : seconds;
      const count = await load(one.url, body, { seconds: duration, mayCloseEarly: one.readsBody === false });
      if (!warmUp) one.rounds.push((cpuMicroseconds(one.worker.pid) - before) / count);
    });
  }
  await check(checked);
  const rows = [];
  for (const [name, one] of Object.entries(all)) {
    await one.worker?.stop();
    const to = one.to && !all[one.to].failed ? { name: one.to, rounds: all[one.to].rounds } : undefined;
    const target = one.targets?.[size[0]] && size[1] === 1_500 ? { ratio: one.targets[size[0]] } : undefined;
    if (one.failed) rows.push({ ...note(name, size, one.to && { name: one.to }, "failed"), failed: true });
    else
      rows.push(
        row({ group: "hits", name, size: sized(size), unit: "µs", rounds: one.rounds, to, target: to && target }),
      );
  }
  return rows;
}
