// Workers in the bare runtime: workerd as the npm package brings it, with a configuration written for each of them.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { freePort, root } from '../scripts/lib.mjs';
import { serve, temporary } from './processes.mjs';

const require = createRequire(import.meta.url);
const { default: workerd } = require('workerd');
export const { version } = require('workerd/package.json');
const config = require('wrangler').unstable_readConfig({ config: path.join(root, 'wrangler.toml') });
const [{ binding: cache }] = config.kv_namespaces;
const [{ name: flights, class_name: Flight }] = config.durable_objects.bindings;

const at = (...parts) => path.join(root, ...parts);

/** One of bench/workers/. */
export const floor = (name) => [[`${name}.js`, at('bench', 'workers', `${name}.js`)]];

/** The built worker. */
export const REPRISE = ['main.js', 'index.js', 'index_bg.wasm'].map((name) => [name, at('build', name)]);

/** The built empty worker. */
export const EMPTY = ['main.js', 'index.js', 'index_bg.wasm'].map((name) => [name, at('bench', 'empty', 'build', name)]);

const text = JSON.stringify; // Cap'n Proto's text literals are quoted as JSON's are

/**
 * A worker in a workerd of its own, listening on the loopback interface.
 * `modules`: [name, file] of each, the main one first; `vars`: its variables; `bound`: whether it has the bindings of
 * wrangler.toml, the namespace being one in memory; `objects`: whether flights are among them; `forgets`: whether the namespace
 * keeps nothing.
 */
export async function startWorkerd({ modules, vars = {}, bound = false, objects = modules === REPRISE, forgets = false }) {
  const { folder, remove } = temporary();
  const port = await freePort();
  const module = ([name, file]) => {
    const kind = name.endsWith('.wasm') ? 'wasm' : 'esModule';
    return `(name = ${text(name)}, ${kind} = embed ${text(path.relative(folder, file))})`;
  };
  const bindings = Object.entries(vars).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`);
  if (bound) bindings.push(`(name = ${text(cache)}, kvNamespace = "namespace")`);
  const hasFlights = bound && objects;
  if (hasFlights) bindings.push(`(name = ${text(flights)}, durableObjectNamespace = ${text(Flight)})`);
  const flightObjects = `durableObjectNamespaces = [(className = ${text(Flight)}, uniqueKey = "flight", enableSql = true)],
  durableObjectStorage = (inMemory = void),`;
  const file = path.join(folder, 'config.capnp');
  writeFileSync(file, `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "namespace", worker = .namespace),
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [${modules.map(module).join(', ')}],
  compatibilityDate = ${text(config.compatibility_date)},
  compatibilityFlags = ${text(config.compatibility_flags)},
  bindings = [${bindings.join(', ')}],
  ${hasFlights ? flightObjects : ''}
);
const namespace :Workerd.Worker = (
  modules = [${floor('namespace').map(module)}],
  compatibilityDate = ${text(config.compatibility_date)},
  bindings = [(name = "FORGETS", json = "${forgets}")],
);
`);
  const worker = serve(modules[0][0], workerd, ['serve', file], `http://127.0.0.1:${port}`);
  return {
    ...worker,
    async stop() {
      await worker.stop();
      remove();
    },
  };
}
