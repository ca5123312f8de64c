// `npm run package`: builds the Worker and packs it with the command `reprise` into dist/reprise-X.Y.Z.tgz, which needs no Rust.
// `npm run package -- --check` also prints what the tarball holds.
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { WORKER_MODULES } from "../cli/workerd-config.js";
import { build } from "./build.mjs";
import { findProgram, log, main, output, root, systemEnv, UserError } from "./common.mjs";

const MAX_BYTES = 2_000_000;
const WORKER = WORKER_MODULES.filter((name) => name.startsWith("build/"));
const EXECUTABLE = "cli/main.js";

/** Packs what is built, into a folder that is emptied first. Returns the tarball and its files. */
export async function pack(dist = path.join(root, "dist")) {
  const at = (...parts) => path.join(root, ...parts);
  const stage = path.join(dist, "package");
  rmSync(dist, { recursive: true, force: true });
  const command = readdirSync(at("cli"), { recursive: true })
    .filter((name) => statSync(at("cli", String(name))).isFile())
    .map((name) => `cli/${String(name).split(path.sep).join("/")}`);
  const sources = Object.fromEntries(
    [...WORKER, ...command, "LICENSE-MIT", "LICENSE-APACHE"].map((name) => [name, name]),
  );
  sources["README.md"] = "docs/getting-started.md";
  for (const [name, source] of Object.entries(sources)) {
    mkdirSync(path.dirname(path.join(stage, name)), { recursive: true });
    copyFileSync(at(source), path.join(stage, name));
  }
  chmodSync(path.join(stage, EXECUTABLE), 0o755);
  writeFileSync(path.join(stage, "package.json"), `${JSON.stringify(manifest(), null, 2)}\n`);
  const expected = [...Object.keys(sources), "package.json"].sort();
  const { filename, files, size } = await npmPack(stage, dist);
  const names = files.map((file) => file.path).sort();
  const unexpected = names.filter((name) => !expected.includes(name) || !isKnown(name));
  const missing = expected.filter((name) => !names.includes(name));
  if (unexpected.length > 0) throw new UserError(`The package must not hold ${unexpected.join(", ")}.`);
  if (missing.length > 0) throw new UserError(`The package lacks ${missing.join(", ")}.`);
  if (size > MAX_BYTES) throw new UserError(`The package has ${size} bytes, more than ${MAX_BYTES}.`);
  return { file: path.join(dist, filename), files, size };
}

/** Whether a file is of a kind that belongs in the package. */
const isKnown = (name) =>
  /^(build\/[\w.-]+\.(js|wasm)|cli\/([\w-]+\/)*[\w-]+\.js|README\.md|LICENSE-[A-Z]+|package\.json)$/.test(name);

function manifest() {
  const read = (name) => JSON.parse(readFileSync(path.join(root, name), "utf8"));
  const { name, version, description, license } = read("package.json");
  return {
    name,
    version,
    description,
    license,
    type: "module",
    bin: { reprise: EXECUTABLE },
    engines: { node: ">=18.17" },
    dependencies: { workerd: read("package-lock.json").packages["node_modules/workerd"].version },
  };
}

async function npmPack(stage, dist) {
  const npm = findProgram("npm");
  if (!npm) throw new UserError("npm is missing. It comes with Node (https://nodejs.org).");
  const text = await output(npm, ["pack", "--json", "--ignore-scripts", "--pack-destination", dist], {
    cwd: stage,
    env: systemEnv,
  });
  if (text === undefined) throw new UserError("`npm pack` fails.");
  // npm 12 names each package; earlier ones list them.
  const [packed] = Object.values(JSON.parse(text));
  return packed;
}

await main(import.meta, async () => {
  const { check } = parseArgs({ options: { check: { type: "boolean" } } }).values;
  await build();
  const { file, files, size } = await pack();
  if (check) for (const each of files) console.log(`${String(each.size).padStart(9)}  ${each.path}`);
  log(`${path.relative(root, file)}: ${files.length} files, ${Math.round(size / 1000)} kB`);
});
