// First sight: hits in KV by the long way. The isolate has not seen these bytes before; the question is one that is stored,
// in another spelling.
import { Stop } from '../../scripts/lib.mjs';
import { chat, load, question } from '../load.mjs';
import { cpu } from '../processes.mjs';
import { row } from '../rows.mjs';
import { answer } from '../upstream.mjs';
import { floor, REPRISE, startWorkerd } from '../workerd.mjs';
import { primed, sized, SIZES } from './hits.mjs';

export async function first({ upstream, quick, say }) {
  const rows = [];
  const [rounds, seconds] = quick ? [3, 0.3] : [5, 0.6];
  const base = upstream.base(1_500);
  const vars = { OPENAI_BASE_URL: base, MEMORY_CACHE_BYTES: '0', ANSWER: answer(1_500) };
  const own = await startWorkerd({ modules: REPRISE, vars, bound: true });
  const least = await startWorkerd({ modules: floor('kv'), vars, bound: true });
  let last;
  for (const size of SIZES.filter(([, answers]) => answers === 1_500).slice(0, quick ? 2 : undefined)) {
    say(`First sight, ${sized(size)}`);
    const body = question(size[0]);
    for (const worker of [own, least]) await worker.ready('/healthz');
    await primed('first sight', chat(own), body, /^reprise; hit/);
    await primed('KV floor', chat(least), body, /^/);
    const calls = await upstream.calls();
    const [ours, theirs] = [[], []];
    for (let round = -1; round < rounds; round += 1) {
      for (const [worker, way, measured] of [[least, 'same', theirs], [own, 'spelled', ours]]) {
        const used = cpu(worker.pid);
        const count = await load(chat(worker), body, { seconds, way });
        if (round >= 0) measured.push((cpu(worker.pid) - used) / count);
      }
    }
    if (await upstream.calls() !== calls) throw new Stop('First sight: not all of these were hits.');
    const to = { name: 'KV floor', rounds: theirs };
    const measured = row({ group: 'first', name: 'KV hit', size: sized(size), unit: 'µs', rounds: ours, to });
    // What a byte costs beyond the size before.
    const perByte = last && ((measured.value - last.value) * 1000) / (size[0] - last.bytes);
    last = { value: measured.value, bytes: size[0] };
    rows.push({ ...measured, perByte });
  }
  await Promise.all([own.stop(), least.stop()]);
  return rows;
}
