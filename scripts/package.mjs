// `npm run package`: builds the Worker and packs it with the command `reprise` into dist/reprise-X.Y.Z.tgz, which needs no Rust.
// A tarball with an unexpected file, a secret or more than 2 MB is an error. `npm run package -- --check` also prints what it holds.
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
  const { filename, files, size } = await npmPack(stage, dist);
  const wrong = packageFaults(
    [...Object.keys(sources), "package.json"],
    files.map(({ path: name }) => ({ name, bytes: readFileSync(path.join(stage, name)) })),
    size,
  );
  if (wrong.length > 0) throw new UserError(`The package is not as it must be:\n  ${wrong.join("\n  ")}`);
  return { file: path.join(dist, filename), files, size };
}

/** The kinds of files that belong in the package. */
const KNOWN = /^(build\/[\w.-]+\.(js|wasm)|cli\/([\w-]+\/)*[\w-]+\.js|README\.md|LICENSE-[A-Z]+|package\.json)$/;

/** What a key looks like: a private one, or one of a provider or a registry. */
const SECRET = /-----BEGIN [A-Z ]*PRIVATE KEY|\b(sk-(proj-|ant-)?|npm_|ghp_|github_pat_|AKIA|AIza)[A-Za-z0-9_-]{16,}/;

/**
 * What is wrong with a package: a list of sentences.
 *
 * @param {string[]} expected the names of its files
 * @param {{ name: string, bytes: Buffer }[]} files
 * @param {number} size of the tarball
 */
export function packageFaults(expected, files, size) {
  const names = files.map(({ name }) => name);
  return [
    ...names.filter((name) => !expected.includes(name) || !KNOWN.test(name)).map((name) => `It must not hold ${name}.`),
    ...expected.filter((name) => !names.includes(name)).map((name) => `It lacks ${name}.`),
    ...files
      .filter(({ bytes }) => SECRET.test(bytes.toString("latin1")))
      .map(({ name }) => `${name} seems to hold a secret.`),
    ...(size > MAX_BYTES ? [`It has ${size} bytes, and ${MAX_BYTES} is the most.`] : []),
  ];
}

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
    ...repository(process.env),
    engines: { node: ">=18.17" },
    dependencies: { workerd: read("package-lock.json").packages["node_modules/workerd"].version },
  };
}

/**
 * The repository, where a workflow of GitHub says it: npm checks it against the statement of provenance.
 *
 * @param {Record<string, string | undefined>} env
 */
const repository = ({ GITHUB_SERVER_URL: server, GITHUB_REPOSITORY: name }) =>
  server && name ? { repository: { type: "git", url: `git+${server}/${name}.git` } } : {};

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
