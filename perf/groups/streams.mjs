// Streams that are forwarded and stored, with and without filtering of reasoning, and the cost of their hits.
import { setTimeout as sleep } from "node:timers/promises";
import { UserError } from "../../scripts/common.mjs";
import { chat, chatBody, distinct, load, send } from "../client.mjs";
import { median, row } from "../report.mjs";
import { EVENTS, INTERVAL_MS, stream } from "../upstream.mjs";
import { cpuMicroseconds } from "../usage.mjs";
import { floor, REPRISE, startWorkerd } from "../workers.mjs";
import { checked, primed } from "./hits.mjs";
import { compared, MISS, startPaths } from "./miss.mjs";

const CONNECTIONS = 20;
const LENGTH_MS = EVENTS * INTERVAL_MS;
const SPREAD_MS = LENGTH_MS / 4; // in which the connections begin, one after the other
const BODY = chatBody(600, { stream: true });

async function one(name, url) {
  const response = await send(url, distinct(BODY), { accept: "text/event-stream" });
  if (!response.body.endsWith("data: [DONE]\n\n")) throw new UserError(`${name}: a truncated stream`);
  if (name.startsWith("miss") && !MISS.test(response.cache))
    throw new UserError(`${name}: not a miss: ${response.cache}`);
  return response;
}

/** Streams on many connections. The cost of their events is measured while all run: no request begins or ends. */
async function many(name, url, pid) {
  const streams = Array.from({ length: CONNECTIONS }, async (_, n) => {
    await sleep((n * SPREAD_MS) / CONNECTIONS);
    return one(name, url);
  });
  const all = Promise.all(streams);
  let perEvent;
  const measure = async () => {
    await sleep(SPREAD_MS + 5 * INTERVAL_MS);
    const [before, began] = [cpuMicroseconds(pid), performance.now()];
    await sleep(LENGTH_MS - SPREAD_MS - 10 * INTERVAL_MS);
    perEvent = (cpuMicroseconds(pid) - before) / (((performance.now() - began) / INTERVAL_MS) * CONNECTIONS);
  };
  const [responses] = await Promise.all([all, pid && measure()]);
  return {
    first: median(responses.map(({ first }) => first)),
    whole: median(responses.map(({ whole }) => whole)),
    perEvent,
  };
}

export async function streams({ upstream, quick, log }) {
  const { workers, urls, stop } = await startPaths(upstream.base(1_500), {
    "miss, STRIP_THINK": { STRIP_THINK: "true" },
  });
  const all = [];
  const added = (name, other) => (name.startsWith("miss") && other === "direct" ? { added: 2 } : undefined);
  const negligible = (name) => (name === "miss" || name === "miss, COALESCE=false" ? { ratio: 1.05 } : undefined);
  for (const [connections, rounds] of quick
    ? [
        [1, 10],
        [CONNECTIONS, 2],
      ]
    : [
        [1, 25],
        [CONNECTIONS, 4],
      ]) {
    log(`Streams, ${connections} at a time`);
    const measured = { first: {}, whole: {}, perEvent: {} };
    const keep = (name, result) => {
      for (const what of Object.keys(measured))
        if (result[what] !== undefined) (measured[what][name] ??= []).push(result[what]);
    };
    for (let round = -1; round < rounds; round += 1) {
      if (connections === 1) {
        // All paths concurrently, as one stream hardly uses the CPU: each begins in a pause of the others.
        const results = await Promise.all(
          Object.entries(urls).map(async ([name, url], n) => {
            await sleep(n * (2 * INTERVAL_MS + 5));
            return [name, await one(name, url)];
          }),
        );
        if (round < 0) continue; // the first round warms up
        for (const result of results) keep(...result);
      } else if (round >= 0) {
        for (const [name, url] of Object.entries(urls)) keep(name, await many(name, url, workers[name]?.pid));
      }
    }
    const at = connections === 1 ? "" : `, ${connections} at a time`;
    all.push(...compared("streams", `first byte${at}`, "ms", measured.first, added));
    all.push(...compared("streams", `whole${at}`, "ms", measured.whole));
    all.push(...compared("streams", `CPU per event${at}`, "µs", measured.perEvent, negligible));
  }
  await stop();
  return [...all, ...(await streamedHits(upstream, quick, log))];
}

/** Hits of a stream. */
async function streamedHits(upstream, quick, log) {
  log("Streams from the cache");
  const [rounds, seconds] = quick ? [3, 0.3] : [5, 0.6];
  const reprise = (vars, ...options) =>
    startWorkerd({
      modules: REPRISE,
      bound: true,
      vars: { OPENAI_BASE_URL: upstream.base(1_500, ...options), MEMORY_CACHE_TTL: "3600", ...vars },
    });
  const workers = {
    "map floor": await startWorkerd({ modules: floor("map"), vars: { RESPONSE: stream(), TYPE: "text/event-stream" } }),
    "memory hit": await reprise({}),
    "memory hit, STRIP_THINK": await reprise({ STRIP_THINK: "true" }),
    "memory hit, STRIP_THINK, with reasoning": await reprise({ STRIP_THINK: "true" }, "think"),
  };
  const isHit = (name) => (name === "map floor" ? /^/ : /^reprise; hit;.*detail=memory/);
  const measured = {};
  for (const [name, worker] of Object.entries(workers)) {
    await worker.ready("/healthz");
    await primed(name, chat(worker), BODY, isHit(name));
    measured[name] = [];
  }
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, worker] of Object.entries(workers)) {
      const before = cpuMicroseconds(worker.pid);
      const count = await load(chat(worker), BODY, { seconds });
      if (round >= 0) measured[name].push((cpuMicroseconds(worker.pid) - before) / count);
    }
  }
  for (const [name, worker] of Object.entries(workers)) {
    const body = await checked(name, chat(worker), BODY, isHit(name));
    if (body.includes("<think>") || body.includes("Let me"))
      throw new UserError(`${name}: the reasoning was not removed`);
    await worker.stop();
  }
  const { "map floor": least, ...own } = measured;
  return [
    row({ group: "streams", name: "map floor: CPU, the whole stream at once", unit: "µs", rounds: least }),
    ...Object.entries(own).map(([name, used]) =>
      row({
        group: "streams",
        name: `${name}: CPU`,
        unit: "µs",
        rounds: used,
        to: { name: "map floor", rounds: least },
      }),
    ),
  ];
}
