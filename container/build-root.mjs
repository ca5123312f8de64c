// Puts the files of the container image into a folder, for `COPY`: node build-root.mjs INSTALLED ROOT
// INSTALLED: a folder in which the package is installed. ROOT/opt/reprise and ROOT/data are written.
import { chmodSync, copyFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SERVER = "cli/kv-server.js";

const [installed, root] = process.argv.slice(2).map((folder) => path.resolve(folder));
const modules = path.join(installed, "node_modules");
const from = (name) => path.join(modules, "reprise", name);
const to = (name) => path.join(root, "opt", "reprise", name);

function copy(source, target, mode = 0o644) {
  mkdirSync(path.dirname(target), { recursive: true });
  copyFileSync(source, target);
  chmodSync(target, mode);
}

const { WORKER_MODULES, workerdConfig } = await import(pathToFileURL(from("cli/workerd-config.js")).href);

for (const name of [...WORKER_MODULES, SERVER]) copy(from(name), to(name));
for (const name of readdirSync(path.join(modules, "reprise"))) if (/^LICENSE/.test(name)) copy(from(name), to(name));
for (const name of ["start.sh", "health.sh"]) copy(path.join(HERE, name), to(name), 0o755);
copy(createRequire(from("package.json"))("workerd").default, to("workerd"), 0o755);
mkdirSync(path.join(root, "data"), { recursive: true });

// The configurations, which start.sh completes.
const at = "/opt/reprise";
const shared = {
  folder: "/tmp", // where start.sh writes it
  modules: WORKER_MODULES.map((name) => [name, `${at}/${name}`]),
  variables: ["VARIABLES"],
  host: "*",
  port: "PORT",
};
const store = {
  entries: "/data/entries",
  index: "/data/index",
  objects: "/data/objects",
  maxBytesVariable: "STORE_MAX_BYTES",
  server: `${at}/${SERVER}`,
};
writeFileSync(to("store.capnp"), workerdConfig({ ...shared, store }));
writeFileSync(to("no-store.capnp"), workerdConfig(shared));
