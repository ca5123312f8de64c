// `npm start`: sets up, builds, and serves on http://localhost:8787. Further arguments go to `wrangler dev`:
// npm start -- --var DEBUG:true
import { build } from "./build.mjs";
import { main, run, wrangler } from "./common.mjs";

await main(import.meta, async () => {
  await build();
  // If a signal ends npm, the shell between npm and this program ends without a signal to this process: end then, too.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.kill(process.pid, "SIGTERM"), 1000).unref();
  await run(...wrangler("dev", ...process.argv.slice(2)), { silent: true });
});
