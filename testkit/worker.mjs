// The ways to start the built Worker, all configured by wrangler.toml. `startMiniflare` gives access to its store and its log.
// `startWorkerd` runs any modules in the bare runtime, for measurements. `startWranglerDev` does what `npm start` does.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { parseJson } from "./json.mjs";
import { BINDING, COALESCER_CLASS, LEDGER_CLASS } from "./names.mjs";
import { freePort, ROOT, responseOf, startProcess, temporaryFolder } from "./processes.mjs";
import { withTimeout } from "./wait.mjs";

const require = createRequire(import.meta.url);

/** The modules of a built Worker, the main one first. */
export const MODULES = ["main.js", "ledger.js", "prices.js", "index.js", "index_bg.wasm", "dashboard-page.js"];

/** [name, file] of each module of a built Worker. */
export const builtModules = (build = path.join(ROOT, "build")) => MODULES.map((name) => [name, path.join(build, name)]);

export const wranglerConfig = () =>
  require("wrangler").unstable_readConfig({ config: path.join(ROOT, "wrangler.toml") });

// ---------------------------------------------------------------------------------------------------------------- Miniflare

/**
 * Starts the Worker in Miniflare.
 *
 * @param {object} [options]
 * @param {Record<string, any>} [options.vars] its variables, over those of wrangler.toml
 * @param {string} [options.build] the folder of its modules
 * @param {string} [options.store] "kv", "upstash", "none", or "faulty-kv": see `RunningWorker.gate`
 * @param {string} [options.coalescer] the binding of the Durable Object: "bound", "none", or "broken", which is no namespace
 * @param {string} [options.ledger] the binding of the ledger: "bound" or "none"
 * @param {number | "broken"} [options.rateLimit] requests a minute
 * @param {string} [options.trap] a path: the wasm instance traps where it would write the log line of a request for it
 * @param {(entry: { message: string }) => void} [options.onLog]
 */
export async function startMiniflare({
  vars = {},
  build = path.join(ROOT, "build"),
  store = "kv",
  coalescer = "bound",
  ledger = "bound",
  rateLimit,
  trap,
  onLog = () => {},
} = {}) {
  const wrangler = require("wrangler");
  // The Miniflare that this wrangler runs on, wherever npm has put it.
  const { Miniflare, convertV4MiniflareOptions } = createRequire(require.resolve("wrangler"))("miniflare");
  const missing = MODULES.find((name) => !existsSync(path.join(build, name)));
  if (missing) throw new Error(`${path.join(build, missing)} is missing: run \`npm run build\` first`);
  const config = wranglerConfig();
  const { workerOptions } = wrangler.unstable_getMiniflareWorkerOptions(config);
  /** @type {any} */
  const options = {
    ...workerOptions,
    name: "worker",
    // Those of the file and the given ones, but none of a developer's own .dev.vars or .env.
    bindings: { ...config.vars, ...vars },
    modulesRoot: path.dirname(build),
    modules: miniflareModules(build, trap),
    // A socket directly to the Worker: nothing of Miniflare's is between the bytes and the test.
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  };
  const running = new RunningWorker();
  if (store === "upstash") {
    const { asNamespace, startRedis } = await import("./redis.mjs");
    running.redis = await startRedis();
    running.kv = asNamespace(running.redis);
    options.bindings.UPSTASH_REDIS_REST_URL = running.redis.origin;
    options.bindings.UPSTASH_REDIS_REST_TOKEN = running.redis.token;
  }
  if (store === "faulty-kv") {
    options.modulesRoot = ROOT;
    options.modules.unshift(...faultyKvModules(build));
    options.serviceBindings = { ...options.serviceBindings, GATE: (request) => running.pass(request) };
  }
  if (typeof rateLimit === "number") {
    options.ratelimits = { [BINDING.rateLimit]: { namespace_id: "1001", simple: { limit: rateLimit, period: 60 } } };
  }
  if (rateLimit === "broken") options.bindings[BINDING.rateLimit] = { broken: true };
  if (coalescer !== "bound") delete options.durableObjects[BINDING.coalescer];
  if (coalescer === "broken") options.bindings[BINDING.coalescer] = { broken: true };
  if (ledger !== "bound") delete options.durableObjects[BINDING.ledger];
  if (store === "none" || store === "upstash") {
    const { [BINDING.store]: _, ...others } = options.kvNamespaces;
    options.kvNamespaces = others;
  }
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      ...options,
      host: "127.0.0.1",
      port: 0,
      cf: false, // fetch nothing from the internet
      handleStructuredLogs: (entry) => {
        running.onLogEntry(entry);
        onLog(entry);
      },
    }),
  );
  await withTimeout(miniflare.ready, "workerd to start");
  running.origin = (await miniflare.unsafeGetDirectURL()).origin;
  running.dispose = async () => void (await Promise.all([miniflare.dispose(), running.redis?.close()]));
  running.ledger = async () => {
    const namespace = await miniflare.getDurableObjectNamespace(BINDING.ledger);
    const object = namespace.get(namespace.idFromName("ledger"));
    return async (question, body) => {
      const init = { method: "POST", body: JSON.stringify(body) };
      const response = await object.fetch(`https://ledger/${question}`, init);
      return response.status === 204 ? undefined : response.json();
    };
  };
  if (store === "kv" || store === "faulty-kv") running.kv = await miniflare.getKVNamespace(BINDING.store);
  return running;
}

function miniflareModules(build, trap) {
  // All modules of the folder: the build may add some.
  const others = readdirSync(build)
    .filter((name) => name !== MODULES[0])
    .map((name) => path.join(build, name));
  return [
    { type: "ESModule", path: path.join(build, MODULES[0]) },
    ...others.filter((file) => file.endsWith(".js")).map((file) => scriptModule(file, trap)),
    ...others.filter((file) => file.endsWith(".wasm")).map((file) => ({ type: "CompiledWasm", path: file })),
  ];
}

// With a trap, the function that writes a line for the compiled code throws as a trap in wasm does.
function scriptModule(file, trap) {
  if (trap === undefined || path.basename(file) !== "index.js") return { type: "ESModule", path: file };
  const script = readFileSync(file, "utf8");
  const write = /console\.log\((\w+)\(t, ?e\)\)/;
  if (!write.test(script)) throw new Error(`${file} writes its lines in another way than this expects`);
  const contents = script.replace(
    write,
    (_, text) =>
      `{const line=${text}(t,e);if(line.includes('"${trap}"'))throw new WebAssembly.RuntimeError("trap");console.log(line)}`,
  );
  return { type: "ESModule", path: file, contents };
}

function faultyKvModules(build) {
  const main = path.relative(path.join(ROOT, "testkit"), path.join(build, MODULES[0]));
  const contents = `
import worker, { ${COALESCER_CLASS} as Built } from ${JSON.stringify(main)};
export { ${LEDGER_CLASS} } from ${JSON.stringify(main)};
import { faultyClass, faultyHandler } from "./faulty-kv.mjs";
export default faultyHandler(worker, ${JSON.stringify(BINDING.store)});
export const ${COALESCER_CLASS} = faultyClass(Built, ${JSON.stringify(BINDING.store)});
`;
  return [
    { type: "ESModule", path: path.join(ROOT, "testkit", "faulty-kv-main.mjs"), contents },
    { type: "ESModule", path: path.join(ROOT, "testkit", "faulty-kv.mjs") },
  ];
}

class RunningWorker {
  origin;
  dispose;
  ledger; // resolves with a function that asks the ledger's object, past the Worker
  kv; // the namespace that the Worker stores in, or its Redis in the same shape
  redis; // with the store "upstash": the bridge to it
  output = ""; // everything that the Worker and the runtime have written
  lines = []; // the log lines of requests, parsed, in order
  #listeners = new Set();
  #gates = new Map();

  onLogEntry({ message }) {
    this.output += `${message}\n`;
    const line = parseJson(message);
    // Only a request's line has both of these.
    if (line?.method !== undefined && line.route !== undefined) this.lines.push(line);
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }

  /**
   * The n-th log line. A request's line is written when all of its work is done, the write to the store included: this is also
   * how to wait for a write.
   */
  async logged(n) {
    while (this.lines.length < n) {
      const written = new Promise((resolve) => this.#listeners.add(resolve));
      await withTimeout(written, `log line ${n}, after:\n${this.output.slice(-2000)}`);
    }
    return this.lines[n - 1];
  }

  /** Runs `exchange`, which makes one request, and waits until the Worker has finished with it. */
  async settled(exchange) {
    const before = this.lines.length;
    const result = await exchange();
    await this.logged(before + 1);
    return result;
  }

  /** Every entry in the store: [[key, bytes, metadata], …]. */
  async entries() {
    const entries = [];
    for (const name of await this.#names()) {
      const { value, metadata } = await this.kv.getWithMetadata(name, "arrayBuffer");
      entries.push([name, Buffer.from(value), metadata]);
    }
    return entries;
  }

  async clear() {
    await Promise.all((await this.#names()).map((name) => this.kv.delete(name)));
  }

  async #names() {
    const names = [];
    let cursor;
    do {
      const page = await this.kv.list({ cursor });
      names.push(...page.keys.map(({ name }) => name));
      cursor = page.cursor;
    } while (cursor);
    return names;
  }

  /**
   * With the store "faulty-kv": decides about each "get" or "put" from now on. `verdict` is "pass", "fail", a promise of one, or
   * a function that is called each time; a promise that never resolves is a store that never responds. Returns a promise of the
   * first operation that arrives.
   */
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
    const name = new URL(request.url).pathname.slice(1);
    const gate = this.#gates.get(name.startsWith("get") ? "get" : name);
    gate?.arrive();
    const verdict = (await (typeof gate?.verdict === "function" ? gate.verdict() : gate?.verdict)) ?? "pass";
    return new Response(null, { status: verdict === "pass" ? 204 : 500 });
  }
}

// ------------------------------------------------------------------------------------------------------------- bare workerd

const quoted = JSON.stringify; // Cap'n Proto quotes text as JSON does

/** The version of workerd that `startWorkerd` runs. */
export const workerdVersion = () => require("workerd/package.json").version;

/**
 * A Worker in a workerd process of its own: { url, pid, ready, stop, log }. `ready(path, init)` waits for the first response to a
 * request, and resolves with the milliseconds since the start of the process.
 *
 * @param {object} options
 * @param {any[][]} options.modules [name, file] of each, the main one first
 * @param {Record<string, string>} [options.vars]
 * @param {string} [options.namespace] the file of a Worker that is the KV namespace; without it there is no KV
 * @param {Record<string, string>} [options.namespaceVars] the variables of that Worker
 * @param {boolean} [options.coalescer] whether the Durable Objects are bound
 * @param {{ store: string, coalescer: string, coalescerClass: string }} [options.names] of the bindings, and of the Durable Object class
 */
export async function startWorkerd({
  modules,
  vars = {},
  namespace,
  namespaceVars = {},
  coalescer = false,
  names = { ...BINDING, coalescerClass: COALESCER_CLASS },
}) {
  const { default: workerd } = require("workerd");
  const config = wranglerConfig();
  const { folder, remove } = temporaryFolder();
  const port = await freePort();
  const moduleOf = ([name, file]) => {
    const kind = name.endsWith(".wasm") ? "wasm" : "esModule";
    return `(name = ${quoted(name)}, ${kind} = embed ${quoted(path.relative(folder, file))})`;
  };
  const texts = (variables) =>
    Object.entries(variables).map(([name, value]) => `(name = ${quoted(name)}, text = ${quoted(value)})`);
  const bindings = texts(vars);
  if (namespace) bindings.push(`(name = ${quoted(names.store)}, kvNamespace = "namespace")`);
  const classes = coalescer ? [[names.coalescer, names.coalescerClass]] : [];
  // The built Worker has the ledger, too.
  if (coalescer && modules.some(([name]) => name === "ledger.js")) classes.push([BINDING.ledger, LEDGER_CLASS]);
  for (const [name, className] of classes) {
    bindings.push(`(name = ${quoted(name)}, durableObjectNamespace = ${quoted(className)})`);
  }
  const object = ([, className]) =>
    `(className = ${quoted(className)}, uniqueKey = ${quoted(className)}, enableSql = true)`;
  const objects = `durableObjectNamespaces = [${classes.map(object).join(", ")}],
  durableObjectStorage = (inMemory = void),`;
  const namespaceService = namespace
    ? `const namespace :Workerd.Worker = (
  modules = [${moduleOf([path.basename(namespace), namespace])}],
  compatibilityDate = ${quoted(config.compatibility_date)},
  bindings = [${texts(namespaceVars).join(", ")}],
);`
    : "";
  const file = path.join(folder, "config.capnp");
  writeFileSync(
    file,
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    ${namespace ? '(name = "namespace", worker = .namespace),' : ""}
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [${modules.map(moduleOf).join(", ")}],
  compatibilityDate = ${quoted(config.compatibility_date)},
  compatibilityFlags = ${quoted(config.compatibility_flags)},
  bindings = [${bindings.join(", ")}],
  ${coalescer ? objects : ""}
);
${namespaceService}
`,
  );
  const began = performance.now();
  const child = startProcess(workerd, ["serve", file], { name: modules[0][0] });
  const url = `http://127.0.0.1:${port}`;
  return {
    ...child,
    url,
    /**
     * @param {string} [at]
     * @param {RequestInit} [init]
     */
    async ready(at = "/", init = {}) {
      await child.ready(() => responseOf(url + at, init), { pollMs: 1 });
      return performance.now() - began;
    },
    async stop() {
      await child.stop();
      remove();
    },
  };
}

// ------------------------------------------------------------------------------------------------------------- wrangler dev

/**
 * `wrangler dev` on the project's own wrangler.toml, with a store of its own and no variables but these: { url, pid, log, stop }.
 * Wrangler runs the build first.
 */
export async function startWranglerDev({ vars = {}, env = {}, limitMs = 180_000 } = {}) {
  const { folder, remove } = temporaryFolder();
  const noVars = path.join(folder, "vars");
  writeFileSync(noVars, "");
  const port = await freePort();
  const inspectorPort = await freePort();
  const program = path.join(path.dirname(require.resolve("wrangler/package.json")), "bin", "wrangler.js");
  const args = [program, "dev", "--port", `${port}`, "--inspector-port", `${inspectorPort}`, "--persist-to", folder];
  args.push("--env-file", noVars, "--show-interactive-dev-session=false");
  for (const [name, value] of Object.entries(vars)) args.push("--var", `${name}:${value}`);
  const child = startProcess(process.execPath, args, {
    name: "wrangler dev",
    cwd: ROOT,
    env: {
      CI: "1",
      NO_COLOR: "1",
      WRANGLER_HIDE_BANNER: "true", // nor a look for a newer wrangler
      WRANGLER_LOG_PATH: folder,
      WRANGLER_REGISTRY_PATH: path.join(folder, "registry"),
      WRANGLER_SEND_METRICS: "false",
      CLOUDFLARE_CF_FETCH_ENABLED: "false",
      ...env,
    },
  });
  const stop = async () => {
    await child.stop();
    remove();
  };
  const url = `http://localhost:${port}`;
  try {
    await child.ready(() => responseOf(`${url}/healthz`), { limitMs, pollMs: 100 });
  } catch (error) {
    await stop();
    throw error;
  }
  return { ...child, url, stop };
}
