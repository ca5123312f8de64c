// Builds perf/empty/, a minimal Worker in Rust, with the tools that build the product.
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { optimize } from "../scripts/build.mjs";
import { say as log, root, run, sha256 } from "../scripts/lib.mjs";
import { setup } from "../scripts/setup.mjs";

const crate = path.join(root, "perf", "empty");
const at = (...parts) => path.join(crate, ...parts);

export async function buildEmpty() {
  const { workerBuild, env, versions } = await setup();
  const stamp = at("build", ".stamp");
  const sources = ["Cargo.toml", "Cargo.lock", path.join("src", "lib.rs")];
  const inputs = sha256(...versions, ...sources.map((file) => readFileSync(at(file))));
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return;
  rmSync(stamp, { force: true });
  log("Building the empty Worker (half a minute the first time)");
  await run(workerBuild, ["--release"], {
    cwd: crate,
    env: { ...env, CARGO_TARGET_DIR: path.join(root, "target", "perf-empty") },
  });
  await optimize(at("build", "index_bg.wasm"), env);
  writeFileSync(stamp, inputs);
}
