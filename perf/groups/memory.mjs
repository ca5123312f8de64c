// The memory of the worker's process while it is asked one new question after the other, and keeps what its settings say.
import { setTimeout as sleep } from 'node:timers/promises';
import { chat, load, question } from '../load.mjs';
import { memory as held } from '../processes.mjs';
import { row } from '../rows.mjs';
import { floor, REPRISE, startWorkerd } from '../workerd.mjs';

const FEW = 10_000;
const MANY = 100_000;

export async function memory({ upstream, quick, say }) {
  const rows = await grown('Reprise', { modules: REPRISE }, { upstream, quick, say }, { ratio: 1.1 });
  // The platform holds an object for some seconds after its last question, whatever that was.
  return [...rows, ...await grown('an object for each question', { modules: floor('object'), objects: true }, { upstream, quick, say })];
}

async function grown(name, definition, { upstream, quick, say }, target) {
  // The namespace forgets: the row is about the worker, not about what it has stored.
  const vars = { OPENAI_BASE_URL: upstream.base(1_500) };
  const worker = await startWorkerd({ ...definition, vars, bound: true, forgets: true });
  await worker.ready('/healthz');
  const [body, start] = [question(600), await upstream.calls()];
  /** Asks until the upstream has been asked this often. */
  const until = async (wanted) => {
    say(`Memory: ${name}, up to ${wanted} questions`);
    let [count, began, done] = [0, performance.now(), 0];
    while ((done = await upstream.calls() - start) < wanted) {
      const rate = count ? (count * 1000) / (performance.now() - began) : 1_000;
      const before = done;
      await load(chat(worker), body, { seconds: Math.max(0.05, Math.min(10, (wanted - done) / rate)), way: 'distinct' });
      count += await upstream.calls() - start - before;
    }
    await sleep(2_000); // whatever was under way
    return held(worker.pid) / 1e6;
  };
  const few = await until(FEW);
  const rows = [row({ group: 'memory', name: `${name}: after 10⁴ distinct questions`, unit: 'MB', rounds: [few] })];
  if (!quick) {
    const many = await until(MANY);
    rows.push(row({ group: 'memory', name: `${name}: after 10⁵ distinct questions`, unit: 'MB', rounds: [many],
      to: { name: 'after 10⁴', rounds: [few] }, target }));
  }
  await worker.stop();
  return rows;
}
