// `npm run demo`: the Worker in front of a simulated OpenAI API on this machine, without a key or the internet. Every request is
// sent twice: the second response must have the first one's bytes, from the cache.
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "./build.mjs";
import { log, main, node, run, UserError } from "./common.mjs";

const LATENCY_MS = 400; // of the simulated API
const RUN = "--run"; // given to the process that sends the requests, on the Node that wrangler needs

const REQUESTS = [
  [
    "chat completion",
    "chat/completions",
    { model: "gpt-4o-mini", messages: [{ role: "user", content: "Say hello." }] },
  ],
  ["completion", "completions", { model: "gpt-3.5-turbo-instruct", prompt: "Once upon a time" }],
  ["embedding", "embeddings", { model: "text-embedding-3-small", input: "a cache" }],
  ["moderation", "moderations", { model: "omni-moderation-latest", input: "a kind word" }],
];

// No two responses are alike: equal ones can only come from the cache.
const differ = (object, n) => ({ ...object, id: `${object.id ?? "response"}-${n}` });

async function send(url, endpoint, body) {
  const began = performance.now();
  const response = await fetch(`${url}/proxy/${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-demo" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const ms = Math.round(performance.now() - began);
  return { status: response.status, cache: response.headers.get("x-cache-status") ?? "-", text, ms };
}

const printRow = (name, attempt, status, cache, ms, calls) =>
  console.log(
    [
      name.padEnd(16),
      String(attempt).padEnd(3),
      String(status).padEnd(6),
      String(cache).padEnd(14),
      String(ms).padStart(5),
      String(calls).padStart(14),
    ].join("  "),
  );

async function demo() {
  const { respondLikeOpenAI } = await import("../testkit/providers.mjs");
  const { startUpstream } = await import("../testkit/upstream.mjs");
  const { waitFor } = await import("../testkit/wait.mjs");
  const { startWranglerDev } = await import("../testkit/worker.mjs");
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));
  log("Starting a simulated OpenAI API and the Worker (a few seconds)");
  const upstream = await startUpstream();
  upstream.otherwise((call) => {
    const response = respondLikeOpenAI(call);
    return { ...response, json: differ(response.json, call.n), delay: LATENCY_MS };
  });
  const worker = await startWranglerDev({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1` } });
  const wrong = [];
  const first = [];
  console.log();
  printRow("request", "try", "status", "X-Cache-Status", "ms", "upstream calls");
  for (const [name, endpoint, body] of REQUESTS) {
    const response = await send(worker.url, endpoint, body);
    printRow(name, 1, response.status, response.cache, response.ms, upstream.count);
    first.push(response.text);
  }
  for (const [index, [name, endpoint, body]] of REQUESTS.entries()) {
    // A response is stored after it is sent: `only-if-cached` is 504 until then, and never calls the upstream.
    await waitFor(() => isStored(worker.url, endpoint, body), `the ${name} to be stored`);
    const response = await send(worker.url, endpoint, body);
    printRow(name, 2, response.status, response.cache, response.ms, upstream.count);
    if (response.status !== 200 || response.cache !== "HIT") wrong.push(`${name}: the repeat was not a hit`);
    else if (response.text !== first[index]) wrong.push(`${name}: the repeat has other bytes`);
  }
  if (upstream.count !== REQUESTS.length) wrong.push(`the upstream was called ${upstream.count} times`);
  await worker.stop();
  await upstream.close();
  console.log();
  if (wrong.length > 0) throw new UserError(`Not as expected: ${wrong.join("; ")}`);
  log(`Every repeat had the same bytes; ${2 * REQUESTS.length} requests, ${upstream.count} upstream calls.`);
}

async function isStored(url, endpoint, body) {
  const response = await fetch(`${url}/proxy/${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-demo", "cache-control": "only-if-cached" },
    body: JSON.stringify(body),
  });
  await response.text();
  return response.ok;
}

await main(import.meta, async () => {
  if (process.argv[2] === RUN) return demo();
  await build();
  return run(node(), [path.resolve(fileURLToPath(import.meta.url)), RUN], { silent: true });
});
