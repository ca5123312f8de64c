// `npm test`: every step in order, until one fails. `npm test -- --only host,worker` runs some.
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import {
  findBrowser,
  findProgram,
  log,
  main,
  modules,
  node,
  root,
  run,
  systemPackages,
  toolEnv,
  UserError,
  wrangler,
} from "./common.mjs";
import { python } from "./python.mjs";
import { setup } from "./setup.mjs";

const WASM = ["--target", "wasm32-unknown-unknown"];
const cargo = (...args) => run("cargo", args);
const program = (...parts) => path.join(modules, ...parts);

const steps = {
  fmt: () => cargo("fmt", "--all", "--check"),
  lint: () => run(node(), [program("@biomejs", "biome", "bin", "biome"), "check", "--error-on-warnings"]),
  types: async () => {
    const tsc = program("typescript", "bin", "tsc");
    for (const config of ["tsconfig.json", "tsconfig.node.json", "tsconfig.dashboard.json"])
      await run(node(), [tsc, "--project", config]);
  },
  "clippy-host": () => cargo("clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"),
  "clippy-wasm": () => cargo("clippy", "--locked", ...WASM, "--", "-D", "warnings"),
  host: () => cargo("test", "--locked"),
  glue: () => nodeTests("tests/glue"),
  build,
  deploy: () => run(...wrangler("deploy", "--dry-run")),
  worker: () => nodeTests("tests/worker"),
  conformance: async () => {
    await nodeTests("conformance/test");
    const conform = (profile, env) =>
      run(node(), [path.join("conformance", "run.mjs"), "--strict", "--profile", profile], {
        env: { ...toolEnv, ...env },
      });
    console.log("\n--- the Worker ---");
    await conform("reprise");
    console.log("\n--- the Worker without its cache in memory ---");
    await conform("reprise", { REPRISE_MEMORY: "0" });
    console.log("\n--- what every cache must do ---");
    await conform("generic");
  },
  clients: async () => nodeTests("tests/clients", { REPRISE_PYTHON: await clientsPython() }),
  browser: () => nodeTests("tests/browser"),
  package: async () => {
    await nodeTests("tests/package");
    console.log("\n--- the packed command ---");
    await run(node(), [path.join("conformance", "run.mjs"), "--packed", "--strict"]);
  },
};

/** Steps that run the built Worker. */
const BUILT = ["deploy", "worker", "conformance", "clients", "browser", "package"];

/** Runs {folder}/*.test.mjs; a folder without tests is a failure, not a success. */
async function nodeTests(folder, variables = {}) {
  const at = path.join(root, folder);
  const files = (existsSync(at) ? readdirSync(at) : []).filter((file) => file.endsWith(".test.mjs")).sort();
  if (files.length === 0) throw new UserError(`${folder} has no *.test.mjs`);
  await run(node(), ["--test", "--test-reporter=spec", ...files.map((file) => path.join(folder, file))], {
    env: { ...toolEnv, ...variables },
  });
}

/** A Redis, which the tests of that store start themselves. */
async function redis() {
  if (findProgram("redis-server")) return;
  await systemPackages("redis-server", ["redis-server"], "the package called redis");
  if (!findProgram("redis-server")) {
    throw new UserError("The package redis-server is installed, but there is no program redis-server.");
  }
}

/** The browser that shows the dashboard. */
async function chromium() {
  if (findBrowser()) return;
  await systemPackages("Chromium", ["chromium", "fonts-dejavu-core"], "a package called chromium");
  if (!findBrowser()) throw new UserError("The package chromium is installed, but there is no program chromium.");
}

const clientsPython = () =>
  python(
    path.join(root, "tests", "clients", "requirements.txt"),
    "the clients for Python that the tests run (under a minute)",
  );

/** The steps to run: all, or those of --only, with a build before what runs the built Worker. */
function chosen() {
  const names = Object.keys(steps);
  const { only } = parseArgs({ options: { only: { type: "string" } } }).values;
  if (only === undefined) return names;
  const wanted = only.split(",");
  if (wanted.some((name) => !names.includes(name))) {
    throw new UserError(`Usage: npm test [-- --only step,…], with steps among ${names.join(", ")}`);
  }
  if (BUILT.some((name) => wanted.includes(name))) wanted.push("build");
  return names.filter((name) => wanted.includes(name));
}

await main(import.meta, async () => {
  const seconds = [];
  const timed = async (name, step) => {
    const start = performance.now();
    try {
      await step();
    } finally {
      seconds.push(`${name} ${((performance.now() - start) / 1000).toFixed(1)}`);
    }
  };
  const names = chosen();
  try {
    await timed("set-up", async () => {
      await setup({ tests: true });
      if (names.includes("worker")) await redis();
      if (names.includes("clients")) await clientsPython();
      if (names.includes("browser")) await chromium();
    });
    for (const name of names) {
      console.log(`\n=== ${name} ===`);
      await timed(name, steps[name]);
    }
    console.log();
    log("All passed.");
  } finally {
    log(`Seconds: ${seconds.join(", ")}`);
  }
});
