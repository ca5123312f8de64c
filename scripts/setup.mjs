// Installs the tools of the build and the tests on a machine that has only rustup, Node, npm and git. Each step does nothing if
// there is nothing to do; what takes long says so and shows its progress.
import { existsSync, linkSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import {
  findProgram,
  isNodeRecent,
  log,
  main,
  modules,
  output,
  retry,
  root,
  run,
  sha256,
  systemEnv,
  systemPackages,
  UserError,
} from "./common.mjs";

const MIN_RUST = [1, 91]; // as in Cargo.toml
const TARGET = "wasm32-unknown-unknown";

// Parts of packages that no script uses, two thirds of what would be installed: binaryen's other programs, Node's C
// headers, and the image library that miniflare loads for a binding that the Worker does not have.
/** @type {[string, RegExp][]} */
const UNUSED = [
  ["binaryen", /^index\.js$/],
  ["binaryen/bin", /^wasm(?!-opt$)/],
  [".bin", /^wasm(?!-opt$)/],
  [`node/node_modules/node-${process.platform}-${process.arch}`, /^(include|share)$/],
  ["@img", /^sharp-/],
];

const PLATFORM = { x64: "64", arm64: "arm64" }[process.arch];
const PROGRAMS = [
  ["workerd/bin/workerd", `@cloudflare/workerd-linux-${PLATFORM}/bin/workerd`],
  ["node/bin/node", `node/node_modules/node-linux-${process.arch}/bin/node`],
];

/** Everything for a build, and with `tests` for the tests too. Returns what `rustc -vV` prints. */
export async function setup({ tests = false } = {}) {
  const rustc = await rust();
  await npmPackages({ tests });
  return rustc;
}

/** Checks that Rust runs, is new enough and has what rust-toolchain.toml lists. Returns what `rustc -vV` prints. */
export async function rust() {
  if (!findProgram("cargo") || !findProgram("rustc")) {
    throw new UserError(
      "Rust is missing. Install it from https://rustup.rs, or use the packed command, which needs none: docs/getting-started.md.",
    );
  }
  if (process.platform === "linux" && !findProgram("cc")) {
    await systemPackages("A C compiler, which Rust links with,", ["gcc", "libc6-dev"], "the package called gcc");
  }
  const sysroot = await output("rustc", ["--print", "sysroot"], { env: { ...systemEnv, RUSTUP_AUTO_INSTALL: "0" } });
  const hasTarget = (folder) => existsSync(path.join(folder, "lib", "rustlib", TARGET, "lib"));
  if (findProgram("rustup") && !(sysroot && hasTarget(sysroot))) {
    log("Installing what rust-toolchain.toml lists (about a minute)");
    await retry(() => run("rustc", ["--version"], { env: systemEnv }));
  }
  const version = await output("rustc", ["-vV"]);
  if (version === undefined) {
    throw new UserError("`rustc` does not run. Install a toolchain (`rustup toolchain install`) and run this again.");
  }
  const [, major, minor] = /^rustc (\d+)\.(\d+)/.exec(version)?.map(Number) ?? [];
  if (major === MIN_RUST[0] && minor < MIN_RUST[1]) {
    throw new UserError(
      `Rust ${major}.${minor} is too old, ${MIN_RUST.join(".")} is needed: \`rustup update stable\`.`,
    );
  }
  if (!hasTarget(await output("rustc", ["--print", "sysroot"]))) {
    throw new UserError(`This Rust has no ${TARGET} target. Install Rust from https://rustup.rs.`);
  }
  return version;
}

/**
 * node_modules as package-lock.json has it, on this kind of machine: what serving needs (`dependencies`, and Node where
 * the machine's own is too old), and with `tests` all the rest.
 */
export async function npmPackages({ tests = false } = {}) {
  const stamp = path.join(modules, ".reprise");
  const lock = sha256(readFileSync(path.join(root, "package-lock.json")), process.platform, process.arch);
  const [whole, serving, servingWithNode] = ["tests", "serving", "serving and Node"].map((level) => `${lock} ${level}`);
  const installed = existsSync(stamp) ? readFileSync(stamp, "utf8") : "";
  // Node 22 of node_modules counts as recent too: wrangler runs the build with it.
  const enough = tests ? [whole] : [whole, servingWithNode, ...(isNodeRecent() ? [serving] : [])];
  if (enough.includes(installed)) return;
  if (!findProgram("npm")) throw new UserError("npm is missing. It comes with Node (https://nodejs.org).");
  // A new lock does not take away what the tests need.
  const [what, size, level, levelArgs] =
    tests || installed.endsWith(" tests")
      ? ["wrangler, Node 22 and what the tests need", 670, whole, []]
      : isNodeRecent()
        ? ["wrangler and binaryen", 170, serving, ["--omit=dev", "--workspaces=false"]]
        : [
            "wrangler, Node 22 and binaryen",
            280,
            servingWithNode,
            ["--omit=dev", "--workspace=scripts/node", "--include-workspace-root"],
          ];
  log(`Installing ${what} into node_modules (about a minute, ${size} MB)`);
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=5"];
  // With the machine's own Node: npm replaces the one in node_modules.
  // npm requests hundreds of files one by one. One failed request must not end the set-up.
  await retry(() => run("npm", [...args, ...levelArgs], { env: systemEnv, shell: process.platform === "win32" }));
  removeUnused();
  await removeSymbols();
  writeFileSync(stamp, level);
}

function removeUnused() {
  for (const [folder, names] of UNUSED) {
    const at = path.join(modules, folder);
    for (const name of existsSync(at) ? readdirSync(at) : []) {
      if (names.test(name)) rmSync(path.join(at, name), { recursive: true, force: true });
    }
  }
}

/** Removes the symbols of the two largest programs, a sixth of what is installed. */
async function removeSymbols() {
  const strip = process.platform === "linux" && findProgram("strip");
  if (!strip) return;
  for (const names of PROGRAMS) {
    // npm's installation makes one file with two names.
    const files = names.map((name) => path.join(modules, name)).filter(existsSync);
    if (files.length === 0) continue;
    const stripped = `${files[0]}.stripped`;
    if ((await output(strip, ["--strip-all", "-o", stripped, files[0]])) === undefined) continue;
    for (const file of files) {
      rmSync(file);
      linkSync(stripped, file);
    }
    rmSync(stripped);
  }
}

await main(import.meta, setup);
