// `npm start`: sets up, builds, and serves on http://localhost:8787. Further arguments go to `wrangler dev`:
// npm start -- --var DEBUG:true
import { build } from './build.mjs';
import { main, run, wrangler } from './lib.mjs';

await main(import.meta, async () => {
  await build();
  // When npm is ended by a signal, the shell that it started us in dies without telling us: do not serve on alone.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.kill(process.pid, 'SIGTERM'), 1000).unref();
  await run(...wrangler('dev', ...process.argv.slice(2)), { silent: true });
});
