// The memory of the Worker's process under a load of distinct requests.
import { setTimeout as sleep } from "node:timers/promises";
import { chat, chatBody, load } from "../client.mjs";
import { row } from "../report.mjs";
import { residentBytes } from "../usage.mjs";
import { floor, REPRISE, startWorkerd } from "../workers.mjs";

const FEW = 10_000;
const MANY = 100_000;

export async function memory({ upstream, quick, log }) {
  const rows = await grown("Reprise", { modules: REPRISE }, { upstream, quick, log }, { ratio: 1.1 });
  // The runtime holds a Durable Object for some seconds after its last request.
  return [
    ...rows,
    ...(await grown(
      "a Durable Object per request",
      { modules: floor("object"), coalescer: true },
      { upstream, quick, log },
    )),
  ];
}

async function grown(name, definition, { upstream, quick, log }, target) {
  // The namespace forgets: the memory of the Worker is measured, not that of its store.
  const vars = { OPENAI_BASE_URL: upstream.base(1_500) };
  const worker = await startWorkerd({ ...definition, vars, bound: true, forgets: true });
  await worker.ready("/healthz");
  const [body, start] = [chatBody(600), await upstream.calls()];
  /** Sends requests until the upstream has been called this often. */
  const until = async (wanted) => {
    log(`Memory: ${name}, up to ${wanted} distinct requests`);
    let [count, began, done] = [0, performance.now(), 0];
    while ((done = (await upstream.calls()) - start) < wanted) {
      const rate = count ? (count * 1000) / (performance.now() - began) : 1_000;
      const before = done;
      await load(chat(worker), body, {
        seconds: Math.max(0.05, Math.min(10, (wanted - done) / rate)),
        variation: "distinct",
      });
      count += (await upstream.calls()) - start - before;
    }
    await sleep(2_000); // whatever is still in progress
    return residentBytes(worker.pid) / 1e6;
  };
  const few = await until(FEW);
  const rows = [row({ group: "memory", name: `${name}: after 10⁴ distinct requests`, unit: "MB", rounds: [few] })];
  if (!quick) {
    const many = await until(MANY);
    rows.push(
      row({
        group: "memory",
        name: `${name}: after 10⁵ distinct requests`,
        unit: "MB",
        rounds: [many],
        to: { name: "after 10⁴", rounds: [few] },
        target,
      }),
    );
  }
  await worker.stop();
  return rows;
}
