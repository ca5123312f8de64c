// Cold: KV hits on the slow path. The isolate has not seen these bytes before: each request is a stored one with other
// insignificant white space.
import { UserError } from "../../scripts/common.mjs";
import { chat, chatBody, load } from "../client.mjs";
import { row } from "../report.mjs";
import { completion } from "../upstream.mjs";
import { cpuMicroseconds } from "../usage.mjs";
import { floor, REPRISE, startWorkerd } from "../workers.mjs";
import { primed, SIZES, sized } from "./hits.mjs";

export async function cold({ upstream, quick, log }) {
  const rows = [];
  const [rounds, seconds] = quick ? [3, 0.3] : [5, 0.6];
  const base = upstream.base(1_500);
  const vars = { OPENAI_BASE_URL: base, MEMORY_CACHE_BYTES: "0", RESPONSE: completion(1_500) };
  const own = await startWorkerd({ modules: REPRISE, vars, bound: true });
  const least = await startWorkerd({ modules: floor("kv"), vars, bound: true });
  let last;
  for (const size of SIZES.filter(([, response]) => response === 1_500).slice(0, quick ? 2 : undefined)) {
    log(`Cold, ${sized(size)}`);
    const body = chatBody(size[0]);
    for (const worker of [own, least]) await worker.ready("/healthz");
    await primed("cold", chat(own), body, /^reprise; hit/);
    await primed("KV floor", chat(least), body, /^/);
    const calls = await upstream.calls();
    const [ours, theirs] = [[], []];
    for (let round = -1; round < rounds; round += 1) {
      for (const [worker, variation, measured] of /** @type {any[][]} */ ([
        [least, "same", theirs],
        [own, "spelled", ours],
      ])) {
        const used = cpuMicroseconds(worker.pid);
        const count = await load(chat(worker), body, { seconds, variation });
        if (round >= 0) measured.push((cpuMicroseconds(worker.pid) - used) / count);
      }
    }
    if ((await upstream.calls()) !== calls) throw new UserError("Cold: not all responses were hits.");
    const to = { name: "KV floor", rounds: theirs };
    const measured = row({ group: "cold", name: "KV hit", size: sized(size), unit: "µs", rounds: ours, to });
    // The cost of a byte beyond the size before.
    const perByte = last && ((measured.value - last.value) * 1000) / (size[0] - last.bytes);
    last = { value: measured.value, bytes: size[0] };
    rows.push({ ...measured, perByte });
  }
  await Promise.all([own.stop(), least.stop()]);
  return rows;
}
