// The Workers that are measured, each in a bare workerd of its own.
import path from "node:path";
import { root } from "../scripts/lib.mjs";
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
export const EMPTY = ["index.js", "index_bg.wasm"].map((name) => [name, at("empty", "build", name)]);

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
