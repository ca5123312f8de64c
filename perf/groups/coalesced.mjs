// Equal concurrent requests: the number of calls to the upstream, and the cost of coalescing.
import { UserError } from "../../scripts/common.mjs";
import { chatBody, distinct, send } from "../client.mjs";
import { median, row } from "../report.mjs";
import { cpuMicroseconds } from "../usage.mjs";
import { compared, startPaths } from "./miss.mjs";

const CLIENTS = 20;

export async function coalesced({ upstream, quick, log }) {
  log(`Misses, ${CLIENTS} equal concurrent requests`);
  const { workers, urls, stop } = await startPaths(upstream.base(1_500, "slow"));
  const [rounds, bursts] = quick ? [3, 3] : [5, 5];
  const each = (names) => Object.fromEntries(names.map((name) => [name, []]));
  const [firsts, used, calls] = [each(Object.keys(urls)), each(Object.keys(workers)), each(Object.keys(urls))];
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, url] of Object.entries(urls)) {
      const pid = workers[name]?.pid;
      const [before, counted] = [pid && cpuMicroseconds(pid), await upstream.calls()];
      const times = [];
      for (let burst = 0; burst < bursts; burst += 1) {
        const body = distinct(chatBody(600));
        const responses = await Promise.all(Array.from({ length: CLIENTS }, () => send(url, body)));
        if (new Set(responses.map((response) => response.body)).size !== 1)
          throw new UserError(`${name}: equal requests, different responses`);
        times.push(...responses.map(({ first }) => first));
      }
      if (round < 0) continue; // the first one warms up
      firsts[name].push(median(times));
      if (pid) used[name].push((cpuMicroseconds(pid) - before) / (CLIENTS * bursts));
      calls[name].push(((await upstream.calls()) - counted) / bursts);
    }
  }
  await stop();
  return [
    ...["miss", "miss, COALESCE=false"].map((name) =>
      row({
        group: "coalesced",
        name: `${name}: calls upstream`,
        unit: "calls",
        rounds: calls[name],
        to: { name: "direct", rounds: calls.direct },
        target: name === "miss" ? { value: 1 } : undefined,
      }),
    ),
    ...compared("coalesced", "first byte", "ms", firsts),
    ...compared("coalesced", "CPU per client", "µs", used),
  ];
}
