// The number of calls between JavaScript and wasm for one request, counted by a wrapper around each import and export.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { root, UserError } from "../../scripts/common.mjs";
import { COALESCER_CLASS } from "../../testkit/names.mjs";
import { temporaryFolder } from "../../testkit/processes.mjs";
import { waitFor } from "../../testkit/wait.mjs";
import { MODULES } from "../../testkit/worker.mjs";
import { chat, chatBody, distinct, send } from "../client.mjs";
import { row } from "../report.mjs";
import { REPRISE, startWorkerd } from "../workers.mjs";
import { primed } from "./hits.mjs";
import { MISS } from "./miss.mjs";

const REQUESTS = 20;
const QUIET_READS = 5; // equal counts in a row, after which all work is done
const QUIET_MS = 20; // between them

// The built Worker, with its crossings counted.
const COUNTED = `
import { count } from "./counter.js";
import worker, { ${COALESCER_CLASS} } from "./${MODULES[0]}";
export { ${COALESCER_CLASS} };
export default {
  fetch(request, env, ctx) {
    if (new URL(request.url).pathname === "/crossings") return Response.json(count);
    return worker.fetch(request, env, ctx);
  },
};
`;

function countedModules(folder) {
  const main = path.join(folder, "counted.js");
  writeFileSync(main, COUNTED);
  return [["counted.js", main], ["counter.js", path.join(root, "perf", "crossing-counter.js")], ...REPRISE];
}

export async function crossings({ upstream, log }) {
  log("Crossings");
  const body = chatBody(600);
  /** The same request with other insignificant white space. */
  let spellings = 0;
  const spelled = () => body.replace("{", `{${" ".repeat((spellings += 1))}`);
  /** @type {Record<string, any[]>} */
  const kinds = {
    "memory hit": [{}, () => body, /^reprise; hit;.*detail=memory/],
    "KV hit, fast path": [{ MEMORY_CACHE_BYTES: "0" }, () => body, /^reprise; hit/],
    "KV hit, slow path": [{ MEMORY_CACHE_BYTES: "0" }, spelled, /^reprise; hit/],
    miss: [{}, () => distinct(body), MISS],
    "miss, COALESCE=false": [{ COALESCE: "false" }, () => distinct(body), MISS],
  };
  const rows = [];
  const { folder, remove } = temporaryFolder();
  for (const [name, [vars, next, status]] of Object.entries(kinds)) {
    const worker = await startWorkerd({
      modules: countedModules(folder),
      bound: true,
      vars: { OPENAI_BASE_URL: upstream.base(1_500), MEMORY_CACHE_TTL: "3600", ...vars },
    });
    await worker.ready("/healthz");
    await primed(name, chat(worker), body, /^reprise; hit/);
    // A response is stored after it is sent: the counts are final when they no longer change.
    const counts = () => {
      let last;
      let equal = 0;
      const settled = async () => {
        const text = await (await fetch(`${worker.url}/crossings`)).text();
        equal = text === last ? equal + 1 : 0;
        last = text;
        return equal >= QUIET_READS && JSON.parse(text);
      };
      return waitFor(settled, "the crossings to settle", { pollMs: QUIET_MS });
    };
    const before = await counts();
    for (let n = 0; n < REQUESTS; n += 1) {
      const { cache } = await send(chat(worker), next());
      if (!status.test(cache)) throw new UserError(`${name}: ${cache}`);
    }
    const after = await counts();
    const [into, out] = ["into", "out"].map((direction) => (after[direction] - before[direction]) / REQUESTS);
    rows.push({ ...row({ group: "crossings", name, unit: "crossings", rounds: [into + out] }), into, out });
    await worker.stop();
  }
  remove();
  return rows;
}
