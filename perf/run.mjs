// `npm run bench [-- --quick] [-- --only hits,miss,…]`: the cost of the Worker, beside the least that its work can cost. Sets up
// what perf/measure.mjs needs.
import path from "node:path";
import { build } from "../scripts/build.mjs";
import { which as findProgram, main, node, root, run, systemPackages, Stop as UserError } from "../scripts/lib.mjs";
import { buildEmpty } from "./empty.mjs";

await main(import.meta, async () => {
  if (process.platform !== "linux") {
    throw new UserError("The measurements read CPU times from /proc: they run on Linux only.");
  }
  // If npm is ended by a signal, its shell ends without a signal to this process: stop measuring then.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.kill(process.pid, "SIGTERM"), 1000).unref();
  for (const [program, debian, elsewhere] of [
    ["wrk", "wrk", "wrk"],
    ["redis-server", "redis-server", "redis"],
  ]) {
    if (!findProgram(program)) await systemPackages(program, [debian], `the package called ${elsewhere}`);
  }
  await build();
  await buildEmpty();
  // On the Node that wrangler needs.
  await run(node(), [path.join(root, "perf", "measure.mjs"), ...process.argv.slice(2)], { silent: true });
});
