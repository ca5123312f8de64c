// `npm run bench [-- --quick] [-- --only hits,miss,…]`: what the worker costs, beside the least that its work can cost.
// Sets up what that needs; bench/measure.mjs measures.
import path from 'node:path';
import { build } from '../scripts/build.mjs';
import { main, node, root, run, Stop, systemPackages, which } from '../scripts/lib.mjs';
import { buildEmpty } from './empty.mjs';

await main(import.meta, async () => {
  if (process.platform !== 'linux') {
    throw new Stop('The bench reads the processor time of processes from /proc: it runs on Linux only.');
  }
  // When npm is ended by a signal, the shell that it started us in dies without telling us: do not measure on alone.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.kill(process.pid, 'SIGTERM'), 1000).unref();
  for (const [program, debian, elsewhere] of [['wrk', 'wrk', 'wrk'], ['redis-server', 'redis-server', 'redis']]) {
    if (!which(program)) await systemPackages(program, [debian], `the package called ${elsewhere}`);
  }
  await build();
  await buildEmpty();
  // On the Node that wrangler needs.
  await run(node(), [path.join(root, 'bench', 'measure.mjs'), ...process.argv.slice(2)], { silent: true });
});
