// Builds perf/empty/, a minimal Worker in Rust, with the tools that build the product.
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { compile } from "../scripts/build.mjs";
import { log, root, sha256, toolEnv } from "../scripts/common.mjs";
import { setup } from "../scripts/setup.mjs";

const crate = path.join(root, "perf", "empty");
const at = (...parts) => path.join(crate, ...parts);

export async function buildEmpty() {
  const rustc = await setup();
  const stamp = at("build", ".stamp");
  const sources = ["Cargo.toml", "Cargo.lock", "main.js", path.join("src", "lib.rs"), "../../scripts/build.mjs"];
  const inputs = sha256(rustc, ...sources.map((file) => readFileSync(at(file))));
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return;
  rmSync(stamp, { force: true });
  log("Building the empty Worker (half a minute the first time)");
  const env = { ...toolEnv, CARGO_TARGET_DIR: path.join(root, "target", "perf-empty") };
  await compile({ crate, name: "empty", main: at("main.js"), folder: at("build"), env });
  writeFileSync(stamp, inputs);
}
