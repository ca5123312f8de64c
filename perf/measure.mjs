// Runs the groups of measurements, prints the results, and writes them to perf/results.json. A full run also updates README.md.
import { writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { intoReadme } from "../conformance/peers.mjs";
import { log, main, output, root, UserError } from "../scripts/common.mjs";
import { coalesced } from "./groups/coalesced.mjs";
import { cold } from "./groups/cold.mjs";
import { crossings } from "./groups/crossings.mjs";
import { hits } from "./groups/hits.mjs";
import { memory } from "./groups/memory.mjs";
import { miss } from "./groups/miss.mjs";
import { size, start } from "./groups/start.mjs";
import { streams } from "./groups/streams.mjs";
import { version as nginx } from "./nginx.mjs";
import { markdown } from "./report.mjs";
import { startUpstream } from "./upstream.mjs";
import { version as workerd } from "./workers.mjs";

const GROUPS = { hits, cold, miss, streams, coalesced, start, size, memory, crossings };

function chosen() {
  const usage = new UserError(
    `Usage: npm run bench [-- --quick] [-- --only group,…], with groups among ${Object.keys(GROUPS).join(", ")}`,
  );
  let values;
  try {
    ({ values } = parseArgs({ options: { quick: { type: "boolean" }, only: { type: "string" } } }));
  } catch {
    throw usage;
  }
  const only = values.only?.split(",") ?? Object.keys(GROUPS);
  if (only.some((name) => !GROUPS[name])) throw usage;
  return { quick: values.quick ?? false, groups: Object.keys(GROUPS).filter((name) => only.includes(name)) };
}

async function machine() {
  const commit = await output("git", ["rev-parse", "--short", "HEAD"]);
  const built = ["src", "Cargo.toml", "Cargo.lock", "scripts/build.mjs"];
  const dirty = await output("git", ["status", "--porcelain", "--untracked-files=no", ...built]);
  return {
    date: new Date().toISOString(),
    commit: commit && commit + (dirty ? " and changes" : ""),
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    memory: `${Math.round(os.totalmem() / 2 ** 30)} GiB`,
    kernel: `${os.type()} ${os.release()}`,
    versions: {
      workerd,
      node: process.versions.node,
      wrk: /wrk (?:\w+\/)?(\S+)/.exec(await output("sh", ["-c", "wrk -v; true"]))?.[1],
      redis: /v=(\S+)/.exec(await output("redis-server", ["--version"]))?.[1],
      nginx,
    },
  };
}

/** Numbers with four digits: none is more precise. */
function rounded(_, value) {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

await main(import.meta, async () => {
  process.setMaxListeners(0); // every child has one
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));
  // If the parent is killed, this process ends, too.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.exit(1), 1000).unref();

  const { quick, groups } = chosen();
  const full = !quick && groups.length === Object.keys(GROUPS).length;
  const began = performance.now();
  const upstream = await startUpstream();
  const rows = [];
  const seconds = {};
  const failed = [];
  for (const name of groups) {
    const start = performance.now();
    let own;
    try {
      own = await GROUPS[name]({ upstream, quick, log });
    } catch (error) {
      // The other groups are still measured, and their rows are written.
      console.error(`[reprise] ${name}: ${error instanceof UserError ? error.message : error.stack}`);
      failed.push(name);
      continue;
    }
    if (own.some((row) => row.failed)) failed.push(name);
    seconds[name] = Math.round((performance.now() - start) / 100) / 10;
    rows.push(...own);
    console.log(`\n${markdown(own)}\n`);
  }
  const on = await machine();
  const results = {
    run: full ? "full" : `${quick ? "quick" : "part"}: ${groups.join(",")}`,
    machine: on,
    seconds,
    failed,
    rows,
  };
  writeFileSync(path.join(root, "perf", "results.json"), `${JSON.stringify(results, rounded, 1)}\n`);
  const date = on.date.slice(0, 10);
  const where = `${on.cores} cores of ${on.cpu}, ${on.kernel}, workerd ${workerd}, ${date}`;
  if (full && failed.length === 0) intoReadme("bench", `${markdown(rows)}\n\nOn ${where}.`);
  const missed = rows.filter(({ met }) => met === false).length;
  log(
    `${where}; ${Math.round((performance.now() - began) / 1000)} s; ${missed} targets missed. All rounds are in perf/results.json.`,
  );
  if (failed.length > 0) throw new UserError(`Not measured, or not completely: ${failed.join(", ")}`);
});
// Open handles must not keep this process alive.
process.exit();
