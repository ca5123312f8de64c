// `npm run mutations [-- --only id,…]`: makes one mistake after the other in a copy of the source, builds it, and expects a case to
// fail. A mutation that does not apply to the source is an error, so the list always follows the source.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { compile } from "../scripts/build.mjs";
import { log, main, root, toolEnv, UserError } from "../scripts/common.mjs";
import { setup } from "../scripts/setup.mjs";
import { temporaryFolder } from "../testkit/processes.mjs";
import { loadCases } from "./engine/cases.mjs";
import { ScriptedUpstream } from "./engine/upstream.mjs";
import { conform, failed } from "./run.mjs";
import { startReprise } from "./start-reprise.mjs";

const LIST = new URL("mutations/mutations.json", import.meta.url);
const RESULTS = new URL("results/mutations.json", import.meta.url);
const HIT_TIMEOUT_MS = 1500;

/** The files that a build needs. */
const SOURCE = ["src", "xtask", "benches", "tests/host", ".cargo", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];

// Compiles quickly; the cases do not measure speed.
const BUILD_PROFILE = `
[profile.mutations]
inherits = "release"
opt-level = 1
lto = false
codegen-units = 16
incremental = true
`;

export const mutations = () => JSON.parse(readFileSync(LIST, "utf8"));

/** The edits of a mutation: `also` has further ones, where two places prevent the same mistake. */
export const edits = ({ id, file, search, replace, also = [] }) => [
  { id, file, search, replace },
  ...also.map((edit) => ({ id, ...edit })),
];

/** The source with one edit. */
export function applyEdit(source, { id, search, replace }) {
  const parts = source.split(search);
  if (parts.length !== 2)
    throw new UserError(`${id}: its text occurs ${parts.length - 1} times in the source, not once`);
  return parts.join(replace);
}

await main(import.meta, async () => {
  const { values } = parseArgs({ options: { only: { type: "string" } } });
  const only = values.only?.split(",");
  const all = mutations();
  for (const edit of all.flatMap(edits)) applyEdit(readFileSync(path.join(root, edit.file), "utf8"), edit);
  const selected = all.filter(({ id }) => !only || only.includes(id));
  if (selected.length === 0) throw new UserError("There is no such mutation.");
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));

  const folder = copySource();
  const build = await builder(folder);
  const upstream = await ScriptedUpstream.start();
  const cases = loadCases();
  const failing = async (selection) => {
    const worker = await startReprise(upstream, { build: path.join(folder, "build") });
    try {
      const options = {
        target: worker.target,
        upstream,
        profile: "reprise",
        cases,
        hitTimeoutMs: HIT_TIMEOUT_MS,
        ...selection,
      };
      return failed(await conform(options), true).map(({ id }) => id);
    } finally {
      await worker.stop();
    }
  };

  log("Building the unmutated source (a minute)");
  await build();
  const wrong = await failing({});
  if (wrong.length > 0) throw new UserError(`The unmutated source fails ${wrong.join(", ")}`);

  const results = [];
  for (const mutation of selected) {
    const started = Date.now();
    const noticed = await withMutation(folder, mutation, async () => {
      await build();
      // The likeliest topics first; all cases only if those notice nothing.
      const likely = await failing({ topic: mutation.first });
      return likely.length > 0 ? likely : failing({});
    });
    results.push({ id: mutation.id, what: mutation.what, noticed });
    report(mutation, noticed, Date.now() - started);
  }
  await upstream.close();

  const missed = results.filter(({ noticed }) => noticed.length === 0).map(({ id }) => id);
  if (!only) writeResults(results, missed);
  if (missed.length > 0) throw new UserError(`Not noticed: ${missed.join(", ")}`);
  log(`All ${results.length} mutations were noticed.`);
});

/** A copy of the source that a build can change: its folder. */
function copySource() {
  const { folder } = temporaryFolder("reprise-mutations-");
  for (const name of SOURCE) cpSync(path.join(root, name), path.join(folder, name), { recursive: true });
  const manifest = path.join(folder, "Cargo.toml");
  writeFileSync(manifest, readFileSync(manifest, "utf8") + BUILD_PROFILE);
  return folder;
}

/** A function that builds the copy. The compiler's errors go to the terminal. */
async function builder(folder) {
  const target = path.join(root, "target", "mutations");
  mkdirSync(target, { recursive: true });
  await setup({ tests: true });
  const env = { ...toolEnv, CARGO_TARGET_DIR: target, CARGO_TERM_QUIET: "true" };
  const main = path.join(folder, "src", "worker", "main.js");
  const options = { name: "reprise", main, folder: path.join(folder, "build"), profile: "mutations", optimize: false };
  return () => compile({ crate: folder, env, ...options });
}

/** Runs `action` while the copy has the mutation. */
async function withMutation(folder, mutation, action) {
  const originals = new Map();
  for (const edit of edits(mutation)) {
    const file = path.join(folder, edit.file);
    const source = readFileSync(file, "utf8");
    if (!originals.has(file)) originals.set(file, source);
    writeFileSync(file, applyEdit(source, edit));
  }
  try {
    return await action();
  } finally {
    for (const [file, source] of originals) writeFileSync(file, source);
  }
}

function report({ id }, noticed, ms) {
  const more = noticed.length > 4 ? `, … (${noticed.length})` : "";
  const seconds = (ms / 1000).toFixed(0).padStart(3);
  console.log(
    `${noticed.length > 0 ? "noticed " : "MISSED  "} ${id.padEnd(28)} ${seconds} s  ${noticed.slice(0, 4).join(", ")}${more}`,
  );
}

function writeResults(results, missed) {
  const revision = execFileSync("git", ["rev-parse", "--short", "HEAD"], { cwd: root }).toString().trim();
  const date = new Date().toISOString().slice(0, 10);
  const head = JSON.stringify({ date, revision, mutations: results.length, noticed: results.length - missed.length });
  const lines = results.map((result) => `  ${JSON.stringify(result)}`);
  writeFileSync(RESULTS, `${head.slice(0, -1)}, "results": [\n${lines.join(",\n")}\n]}\n`);
}
