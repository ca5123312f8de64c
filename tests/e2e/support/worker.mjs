// The built worker in workerd, as wrangler.toml describes it, with a real local KV or a real Redis.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import { asNamespace, startRedis } from "./redis.mjs";
import { within } from "./wait.mjs";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const require = createRequire(import.meta.url);
const wrangler = require("wrangler");
// The Miniflare that this wrangler runs on, wherever npm has put it.
const { Miniflare, convertV4MiniflareOptions } = createRequire(require.resolve("wrangler"))("miniflare");

// What every test wants unless it says otherwise: nothing that stays in memory, or the store would not be seen. Whether
// equal questions share a call must make no difference to most tests: they run either way.
const DEFAULT_VARS = { MEMORY_CACHE_BYTES: process.env.REPRISE_MEMORY ?? "0", COALESCE_TTL: "0", COALESCE: process.env.REPRISE_COALESCE ?? "true" };

const pool = new Map();
after(() => Promise.all([...pool.values()].map(async (worker) => (await worker).dispose())));

// The worker with these `vars`, this `store` ("kv", "gated", "upstash" or "none") and these `flights` ("bound", "none" or
// "broken"), and this rate `limit` (requests a minute, or "broken"); the same wishes share one instance. Everything is stopped when the test file is done.
// With a `trap`, a path, its wasm instance comes to an end where it should write the line of a request for that.
export function worker({ vars = {}, store = "kv", flights = "bound", limit, trap } = {}) {
  const key = JSON.stringify([store, flights, limit, trap, Object.entries(vars).sort()]);
  if (!pool.has(key)) pool.set(key, start(vars, store, flights, limit, trap));
  return pool.get(key);
}

// For a file that needs many variants one after the other.
export async function release(instance) {
  for (const [key, pooled] of pool) if ((await pooled) === instance) pool.delete(key);
  await instance.dispose();
}

async function start(vars, store, flights, limit, trap) {
  const config = wrangler.unstable_readConfig({ config: path.join(ROOT, "wrangler.toml") });
  const main = path.resolve(ROOT, config.main);
  if (!existsSync(main)) throw new Error(`${config.main} is missing: run \`npm run build\` first`);
  const { workerOptions } = wrangler.unstable_getMiniflareWorkerOptions(config);
  const options = {
    ...workerOptions,
    name: "worker",
    // The file's variables and the test's, but not those of a developer's own .dev.vars or .env.
    bindings: { ...config.vars, ...DEFAULT_VARS, ...vars },
    modulesRoot: ROOT,
    modules: modules(main, trap),
    // A socket straight into the worker: nothing of Miniflare stands between the bytes and the test.
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  };
  const running = new RunningWorker();
  if (store === "upstash") {
    running.redis = await startRedis();
    options.bindings.UPSTASH_REDIS_REST_URL = running.redis.origin;
    options.bindings.UPSTASH_REDIS_REST_TOKEN = running.redis.token;
  }
  if (store === "gated") {
    options.modules.unshift({ type: "ESModule", path: fileURLToPath(new URL("gated.mjs", import.meta.url)) });
    options.serviceBindings = { ...options.serviceBindings, GATE: (request) => running.pass(request) };
  }
  if (typeof limit === "number") options.ratelimits = { RATE_LIMIT: { namespace_id: "1001", simple: { limit, period: 60 } } };
  if (limit === "broken") options.bindings.RATE_LIMIT = { broken: true };
  if (flights !== "bound") delete options.durableObjects.FLIGHTS;
  // Something of that name that is no namespace of objects.
  if (flights === "broken") options.bindings.FLIGHTS = { broken: true };
  if (store === "none" || store === "upstash") {
    options.kvNamespaces = Object.fromEntries(
      Object.entries(options.kvNamespaces).filter(([name]) => name !== "OPENAI_CACHE"),
    );
  }
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      ...options,
      host: "127.0.0.1",
      port: 0,
      cf: false, // nothing to fetch from the internet
      handleStructuredLogs: (entry) => running.heard(entry),
    }),
  );
  await within(miniflare.ready, "workerd to start");
  running.origin = (await miniflare.unsafeGetDirectURL()).origin;
  running.dispose = () => Promise.all([miniflare.dispose(), running.redis?.close()]);
  if (store === "upstash") running.kv = asNamespace(running.redis);
  else if (store !== "none") running.kv = await miniflare.getKVNamespace("OPENAI_CACHE");
  return running;
}

function modules(main, trap) {
  const folder = path.dirname(main);
  const parts = readdirSync(folder).map((name) => path.join(folder, name));
  return [
    { type: "ESModule", path: main },
    ...parts.filter((file) => file.endsWith(".js") && file !== main).map((file) => module(file, trap)),
    ...parts.filter((file) => file.endsWith(".wasm")).map((file) => ({ type: "CompiledWasm", path: file })),
  ];
}

// What the compiled code calls to write a line throws as a trap does.
function module(file, trap) {
  if (trap === undefined) return { type: "ESModule", path: file };
  const whole = readFileSync(file, "utf8");
  const write = /console\.log\((\w+)\(t, ?e\)\)/;
  if (!write.test(whole)) throw new Error(`${file} writes its lines in another way than this knows`);
  const contents = whole.replace(write, (_, text) =>
    `{const line=${text}(t,e);if(line.includes('"${trap}"'))throw new WebAssembly.RuntimeError("trap");console.log(line)}`);
  return { type: "ESModule", path: file, contents };
}

class RunningWorker {
  origin;
  dispose;
  kv; // the namespace that the worker stores in, or its Redis in the same shape
  redis; // with the store "upstash": the bridge to it
  output = ""; // everything that the worker and the runtime have written
  lines = []; // the log lines of answered requests, parsed, in order
  #listeners = new Set();
  #gates = new Map();

  heard({ message }) {
    this.output += `${message}\n`;
    const line = parsed(message);
    // A request's line is told from other JSON by the two fields that nothing else has.
    if (line?.method !== undefined && line.route !== undefined) this.lines.push(line);
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }

  // Resolves with the n-th request's log line. It is written when all work of that request is done, the store
  // write included, so this is also how to wait for a write.
  async logged(n) {
    while (this.lines.length < n) {
      const heard = new Promise((resolve) => this.#listeners.add(resolve));
      await within(heard, `log line ${n}, after:\n${this.output.slice(-2000)}`);
    }
    return this.lines[n - 1];
  }

  // Runs `exchange` and waits until the worker is done with the one request it makes.
  async settled(exchange) {
    const before = this.lines.length;
    const result = await exchange();
    await this.logged(before + 1);
    return result;
  }

  // Every entry in the store: [[key, bytes, metadata], …].
  async entries() {
    const entries = [];
    let cursor;
    do {
      const page = await this.kv.list({ cursor });
      for (const { name } of page.keys) {
        const { value, metadata } = await this.kv.getWithMetadata(name, "arrayBuffer");
        entries.push([name, Buffer.from(value), metadata]);
      }
      cursor = page.cursor;
    } while (cursor);
    return entries;
  }

  async clear() {
    for (const [name] of await this.entries()) await this.kv.delete(name);
  }

  // With the store "gated": what becomes of each "get" or "put" from now on. `verdict` is "pass", "fail", a promise of
  // one, or a function that is asked each time; a promise that never resolves is a store that never answers. Returns a
  // promise of the first operation that arrives.
  gate(operation, verdict) {
    let arrive;
    const arrived = new Promise((resolve) => (arrive = resolve));
    this.#gates.set(operation, { verdict, arrive });
    return arrived;
  }

  openGates() {
    this.#gates.clear();
  }

  async pass(request) {
    // KV offers a value by `get` and by `getWithMetadata`: to a test both are a get.
    const operation = new URL(request.url).pathname.startsWith("/get") ? "get" : new URL(request.url).pathname.slice(1);
    const gate = this.#gates.get(operation);
    gate?.arrive();
    const verdict = (await (typeof gate?.verdict === "function" ? gate.verdict() : gate?.verdict)) ?? "pass";
    return new Response(null, { status: verdict === "pass" ? 204 : 500 });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
