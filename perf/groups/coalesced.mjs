// Equal questions at the same time: how often the upstream is asked, and what the sharing costs.
import { Stop } from '../../scripts/lib.mjs';
import { another, asked, question } from '../load.mjs';
import { cpu } from '../processes.mjs';
import { median, row } from '../rows.mjs';
import { compared, ways } from './miss.mjs';

const CALLERS = 20;

export async function coalesced({ upstream, quick, say }) {
  say(`Misses, ${CALLERS} equal ones at once`);
  const { workers, urls, stop } = await ways(upstream.base(1_500, 'slow'));
  const [rounds, bursts] = quick ? [3, 3] : [5, 5];
  const each = (names) => Object.fromEntries(names.map((name) => [name, []]));
  const [firsts, used, calls] = [each(Object.keys(urls)), each(Object.keys(workers)), each(Object.keys(urls))];
  for (let round = -1; round < rounds; round += 1) {
    for (const [name, url] of Object.entries(urls)) {
      const pid = workers[name]?.pid;
      const [before, counted] = [pid && cpu(pid), await upstream.calls()];
      const times = [];
      for (let burst = 0; burst < bursts; burst += 1) {
        const body = another(question(600));
        const answers = await Promise.all(Array.from({ length: CALLERS }, () => asked(url, body)));
        if (new Set(answers.map((answer) => answer.body)).size !== 1) throw new Stop(`${name}: equal questions, different answers`);
        times.push(...answers.map(({ first }) => first));
      }
      if (round < 0) continue; // the first one warms up
      firsts[name].push(median(times));
      if (pid) used[name].push((cpu(pid) - before) / (CALLERS * bursts));
      calls[name].push((await upstream.calls() - counted) / bursts);
    }
  }
  await stop();
  return [
    ...['miss', 'miss, COALESCE=false'].map((name) => row({ group: 'coalesced', name: `${name}: calls upstream`, unit: 'calls',
      rounds: calls[name], to: { name: 'direct', rounds: calls.direct }, target: name === 'miss' ? { value: 1 } : undefined })),
    ...compared('coalesced', 'first byte', 'ms', firsts),
    ...compared('coalesced', 'CPU per caller', 'µs', used),
  ];
}
