// `npm run soak [-- --minutes N]`: everything at once for a while (3 minutes), in front of an upstream that fails in every
// way. Every reply must have its question's bytes, and the worker's process must not grow.
import path from 'node:path';
import { build } from './build.mjs';
import { main, node, run, say, Stop, toolEnv } from './lib.mjs';

await main(import.meta, async () => {
  const args = process.argv.slice(2);
  const minutes = args.length === 0 ? 3 : Number(args[0] === '--minutes' && args.length === 2 ? args[1] : NaN);
  if (!(minutes > 0)) throw new Stop('Usage: npm run soak [-- --minutes N]');
  await build();
  say(`${minutes} minutes of everything at once`);
  await run(node(), ['--test', '--test-reporter=spec', path.join('tests', 'long', 'soak.test.mjs')],
    { env: { ...toolEnv, SOAK_MINUTES: String(minutes) } });
});
