// The configuration of workerd, in the text form of Cap'n Proto. It holds names only: each variable's value reaches workerd
// through its environment.
import path from "node:path";

/** As in wrangler.toml. */
export const COMPATIBILITY_DATE = "2026-10-23";
export const COMPATIBILITY_FLAGS = ["enable_request_signal", "request_signal_passthrough"];
/** The modules of the Worker, by their files in the package, the main one first. */
export const WORKER_MODULES = [
  "cli/worker.js",
  "build/main.js",
  "build/ledger.js",
  "build/prices.js",
  "build/index.js",
  "build/index_bg.wasm",
  "build/dashboard-page.js",
];
export const STORE_BINDING = "OPENAI_CACHE";
export const COALESCER_BINDING = "COALESCER";
export const COALESCER_CLASS = "Coalescer";
const EPHEMERAL_BINDING = "EPHEMERAL_COALESCER";
const EPHEMERAL_CLASS = "EphemeralCoalescer";
const LEDGER_BINDING = "LEDGER";
const LEDGER_CLASS = "Ledger";
export const RESERVED_NAMES = [STORE_BINDING, COALESCER_BINDING, EPHEMERAL_BINDING, LEDGER_BINDING, "RATE_LIMIT"];

const quoted = JSON.stringify; // Cap'n Proto quotes text as JSON does
/** @param {string[]} items */
const list = (items) => `[${items.join(", ")}]`;

/**
 * The environment variable that carries a variable of the Worker.
 *
 * @param {string} name
 */
export const environmentName = (name) => `REPRISE_${name}`;

/**
 * @typedef {object} StoreOptions the folders of the store, the size of its entries, and the file of the KV server
 * @property {string} entries
 * @property {string} index
 * @property {string} objects
 * @property {number} [maxBytes]
 * @property {string} [maxBytesVariable] the environment variable that has the number instead
 * @property {string} server
 */

/**
 * The text of the configuration.
 *
 * @param {object} options
 * @param {string} options.folder where the text will be, from which it names other files
 * @param {string[][]} options.modules [name, file] of each module of the Worker, the main one first
 * @param {string[]} options.variables the names of the Worker's variables
 * @param {string} options.host
 * @param {number | string} options.port
 * @param {StoreOptions} [options.store] without it, nothing is stored
 * @param {string[]} [options.certificates] of authorities that are trusted besides those of the system, in PEM
 */
export function workerdConfig({ folder, modules, variables, host, port, store, certificates = [] }) {
  /** @param {string[]} module */
  const moduleOf = ([name, file]) => {
    const kind = name.endsWith(".wasm") ? "wasm" : "esModule";
    const from = path.relative(folder, file).split(path.sep).join("/");
    return `(name = ${quoted(name)}, ${kind} = embed ${quoted(from)})`;
  };
  const bindings = variables.map(
    (name) => `(name = ${quoted(name)}, fromEnvironment = ${quoted(environmentName(name))})`,
  );
  if (store) bindings.push(`(name = ${quoted(STORE_BINDING)}, kvNamespace = "kv")`);
  bindings.push(`(name = ${quoted(COALESCER_BINDING)}, durableObjectNamespace = ${quoted(COALESCER_CLASS)})`);
  bindings.push(`(name = ${quoted(EPHEMERAL_BINDING)}, durableObjectNamespace = ${quoted(EPHEMERAL_CLASS)})`);
  bindings.push(`(name = ${quoted(LEDGER_BINDING)}, durableObjectNamespace = ${quoted(LEDGER_CLASS)})`);
  const address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  /** @param {string} name @param {string} at */
  const disk = (name, at) => `(name = ${quoted(name)}, disk = (path = ${quoted(path.resolve(at))}, writable = true)),`;
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true, trustedCertificates = ${list(certificates.map((pem) => quoted(pem)))}))),
    ${store ? `(name = "kv", worker = .kv),\n    (name = "nowhere", network = (allow = [])),` : ""}
    ${store ? [disk("entries", store.entries), disk("index", store.index), disk("objects", store.objects)].join("\n    ") : ""}
  ],
  sockets = [(name = "http", address = ${quoted(address)}, http = (), service = "main")],
);

const main :Workerd.Worker = (
  modules = ${list(modules.map(moduleOf))},
  compatibilityDate = ${quoted(COMPATIBILITY_DATE)},
  compatibilityFlags = ${list(COMPATIBILITY_FLAGS.map((flag) => quoted(flag)))},
  bindings = ${list(bindings)},
  durableObjectNamespaces = [
    (className = ${quoted(COALESCER_CLASS)}, uniqueKey = "coalescer", enableSql = true),
    (className = ${quoted(EPHEMERAL_CLASS)}, ephemeralLocal = void),
    (className = ${quoted(LEDGER_CLASS)}, uniqueKey = "ledger", enableSql = true),
  ],
  durableObjectStorage = ${store ? '(localDisk = "objects")' : "(inMemory = void)"},
);
${store ? kvServer(store, moduleOf) : ""}`;
}

/**
 * @param {StoreOptions} store
 * @param {(module: string[]) => string} moduleOf
 */
function kvServer({ server, maxBytes, maxBytesVariable }, moduleOf) {
  const bindings = ['(name = "DISK", service = "entries")', '(name = "INDEX", durableObjectNamespace = "EntryIndex")'];
  if (maxBytes !== undefined) bindings.push(`(name = "MAX_BYTES", text = "${maxBytes}")`);
  if (maxBytesVariable) bindings.push(`(name = "MAX_BYTES", fromEnvironment = ${quoted(maxBytesVariable)})`);
  return `
const kv :Workerd.Worker = (
  modules = ${list([moduleOf(["kv-server.js", server])])},
  compatibilityDate = ${quoted(COMPATIBILITY_DATE)},
  bindings = ${list(bindings)},
  globalOutbound = "nowhere",
  durableObjectNamespaces = [(className = "EntryIndex", uniqueKey = "entry-index", enableSql = true)],
  durableObjectStorage = (localDisk = "index"),
);
`;
}
