// The Workers that are measured, each in a bare workerd of its own.
import path from "node:path";
import { root } from "../scripts/common.mjs";
import { freePort, responseOf, startProcess, temporaryFolder } from "../testkit/processes.mjs";
import { builtModules, startWorkerd as start, workerdVersion } from "../testkit/worker.mjs";

export const version = workerdVersion();

const at = (...parts) => path.join(root, "perf", ...parts);

/** One of perf/floors/: the least that some way to serve a response can cost. */
export const floor = (name) => [[`${name}.js`, at("floors", `${name}.js`)]];

/** The bindings of the floors, and their Durable Object class. */
const FLOOR_NAMES = { store: "STORE", coalescer: "OBJECTS", coalescerClass: "Forwarder" };
const isFloor = ([[, file]]) => file.startsWith(at("floors"));

/** The built Worker. */
export const REPRISE = builtModules();

/** The built empty Worker. */
export const EMPTY = ["main.js", "index.js", "index_bg.wasm"].map((name) => [name, at("empty", "build", name)]);

/**
 * Starts a Worker. `bound`: it has a KV namespace, in memory. `coalescer`: it has the Durable Object, too. `forgets`: the
 * namespace stores nothing.
 */
export const startWorkerd = ({ modules, vars = {}, bound = false, coalescer = modules === REPRISE, forgets = false }) =>
  start({
    modules,
    vars,
    namespace: bound ? at("floors", "namespace.js") : undefined,
    namespaceVars: forgets ? { FORGETS: "true" } : {},
    coalescer: bound && coalescer,
    ...(isFloor(modules) && { names: FLOOR_NAMES }),
  });

/** Starts the command `reprise` of this checkout, with an empty folder: { ready, stop } as those of a Worker. */
export async function startCommand({ vars }) {
  const { folder, remove } = temporaryFolder();
  const port = await freePort();
  const variables = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
  const flags = ["--port", String(port), "--dir", path.join(folder, "store"), "--quiet"];
  const began = performance.now();
  const child = startProcess(process.execPath, [path.join(root, "cli", "main.js"), ...flags, ...variables]);
  return {
    async ready(at = "/", init = {}) {
      await child.ready((log) => log.includes('"event":"listening"'), { pollMs: 1 });
      await child.ready(() => responseOf(`http://127.0.0.1:${port}${at}`, init), { pollMs: 1 });
      return performance.now() - began;
    },
    async stop() {
      await child.stop();
      remove();
    },
  };
}
