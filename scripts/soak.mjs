// `npm run soak [-- --minutes N]`: all kinds of requests at once for a while (3 minutes), with an upstream that fails in
// every way. Each response must be the one to its request, and the memory of the Worker's process must not grow.
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { log, main, node, run, toolEnv, UserError } from "./common.mjs";
import { npmPackages } from "./setup.mjs";

await main(import.meta, async () => {
  const { values } = parseArgs({ options: { minutes: { type: "string", default: "3" } } });
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new UserError("Usage: npm run soak [-- --minutes N]");
  await npmPackages({ tests: true });
  await build();
  log(`${minutes} minutes of all kinds of requests at once`);
  const test = path.join("tests/soak", "soak.test.mjs");
  await run(node(), ["--test", "--test-reporter=spec", test], { env: { ...toolEnv, SOAK_MINUTES: String(minutes) } });
});
