// The configuration of workerd, in the text form of Cap'n Proto. It holds names only: each variable's value reaches workerd
// through its environment.
import path from "node:path";

/** As in wrangler.toml. */
export const COMPATIBILITY_DATE = "2026-10-23";
export const COMPATIBILITY_FLAGS = ["enable_request_signal", "request_signal_passthrough"];
export const STORE_BINDING = "OPENAI_CACHE";
export const COALESCER_BINDING = "COALESCER";
export const COALESCER_CLASS = "Coalescer";
export const RESERVED_NAMES = [STORE_BINDING, COALESCER_BINDING, "RATE_LIMIT"];

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
 * The text of the configuration.
 *
 * @param {object} options
 * @param {string} options.folder where the text will be, from which it names other files
 * @param {string[][]} options.modules [name, file] of each module of the Worker, the main one first
 * @param {string[]} options.variables the names of the Worker's variables
 * @param {string} options.host
 * @param {number} options.port
 * @param {{ entries: string, index: string, objects: string, maxBytes?: number, server: string }} [options.store] the folders of the
 *   store, and the file of the KV server; without it, nothing is stored
 */
export function workerdConfig({ folder, modules, variables, host, port, store }) {
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
  const address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  /** @param {string} name @param {string} at */
  const disk = (name, at) => `(name = ${quoted(name)}, disk = (path = ${quoted(path.resolve(at))}, writable = true)),`;
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
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
  durableObjectNamespaces = [(className = ${quoted(COALESCER_CLASS)}, uniqueKey = "coalescer", enableSql = true)],
  durableObjectStorage = ${store ? '(localDisk = "objects")' : "(inMemory = void)"},
);
${store ? kvServer(store, moduleOf) : ""}`;
}

/**
 * @param {{ server: string, maxBytes?: number }} store
 * @param {(module: string[]) => string} moduleOf
 */
function kvServer({ server, maxBytes }, moduleOf) {
  const bindings = ['(name = "DISK", service = "entries")', '(name = "INDEX", durableObjectNamespace = "EntryIndex")'];
  if (maxBytes !== undefined) bindings.push(`(name = "MAX_BYTES", text = "${maxBytes}")`);
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
