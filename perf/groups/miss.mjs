// Misses: what the Worker adds to a call to the upstream, in CPU time and in time to the first byte.
import { UserError } from "../../scripts/common.mjs";
import { chat, chatBody, distinct, load, send } from "../client.mjs";
import { median, row } from "../report.mjs";
import { cpuMicroseconds } from "../usage.mjs";
import { floor, REPRISE, startWorkerd } from "../workers.mjs";

export const MISS = /^reprise; fwd=uri-miss/;

/** The paths to an upstream: direct, through a bare pass-through, and through the Worker with and without coalescing. */
export async function startPaths(base, more = {}) {
  const reprise = (vars) =>
    startWorkerd({ modules: REPRISE, bound: true, forgets: true, vars: { OPENAI_BASE_URL: base, ...vars } });
  const workers = {
    "bare pass-through": await startWorkerd({ modules: floor("pass"), vars: { OPENAI_BASE_URL: base } }),
    miss: await reprise({}),
    "miss, COALESCE=false": await reprise({ COALESCE: "false" }),
  };
  for (const [name, vars] of Object.entries(more)) workers[name] = await reprise(vars);
  const urls = { direct: `${base}/chat/completions` };
  for (const [name, worker] of Object.entries(workers)) {
    await worker.ready("/healthz");
    urls[name] = chat(worker);
  }
  return {
    workers,
    urls,
    stop: () => Promise.all(Object.values(workers).map((worker) => worker.stop())),
  };
}

/**
 * Rows of each path, compared with direct calls and the bare pass-through.
 *
 * @param {string} group
 * @param {string} what
 * @param {string} unit
 * @param {Record<string, number[]>} measured
 * @param {(name: string, other: string) => Record<string, number> | undefined} [target]
 */
export function compared(group, what, unit, measured, target = () => undefined) {
  const rows = [];
  for (const [name, rounds] of Object.entries(measured)) {
    const others =
      name === "direct" ? [] : ["direct", "bare pass-through"].filter((other) => other !== name && measured[other]);
    if (others.length === 0) rows.push(row({ group, name: `${name}: ${what}`, unit, rounds }));
    for (const other of others) {
      const to = { name: other, rounds: measured[other] };
      rows.push(row({ group, name: `${name}: ${what}`, unit, rounds, to, target: target(name, other) }));
    }
  }
  return rows;
}

export async function miss({ upstream, quick, log }) {
  const [rounds, seconds, requests] = quick ? [3, 0.3, 30] : [5, 0.6, 60];
  const { workers, urls, stop } = await startPaths(upstream.base(1_500));
  const body = chatBody(600);
  const used = Object.fromEntries(Object.keys(workers).map((name) => [name, []]));
  const firsts = Object.fromEntries(Object.keys(urls).map((name) => [name, []]));
  log("Misses: CPU time");
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, worker] of Object.entries(workers)) {
      const before = cpuMicroseconds(worker.pid);
      const count = await load(urls[name], body, { seconds, variation: "distinct" });
      if (round >= 0) used[name].push((cpuMicroseconds(worker.pid) - before) / count);
    }
  }
  log("Misses: time to the first byte");
  for (let round = -1; round < rounds; round += 1) {
    const times = Object.fromEntries(Object.keys(urls).map((name) => [name, []]));
    for (let n = 0; n < requests; n += 1) {
      for (const [name, url] of Object.entries(urls)) {
        const response = await send(url, distinct(body));
        if (name.startsWith("miss") && !MISS.test(response.cache))
          throw new UserError(`${name}: not a miss: ${response.cache}`);
        times[name].push(response.first);
      }
    }
    if (round >= 0) for (const name of Object.keys(urls)) firsts[name].push(median(times[name]));
  }
  await stop();
  return [...compared("miss", "CPU", "µs", used), ...compared("miss", "first byte", "ms", firsts)];
}
