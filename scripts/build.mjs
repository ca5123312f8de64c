// `npm run build`, and wrangler's own build command: compiles src/ into build/ if anything has changed.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { log, main, modules, node, output, root, run, sha256, toolEnv, UserError } from "./common.mjs";
import { PAGE_MODULE, pageModule } from "./dashboard.mjs";
import { npmPackages, rust } from "./setup.mjs";

const TARGET = "wasm32-unknown-unknown";
const MAIN = "src/worker/main.js";

// The size after gzip is the one that counts. Similar code compresses best side by side, so functions are ordered by name, which
// groups the instances of a generic function, and almost nothing is inlined (the compiler has inlined what is hot).
// Names go: a panic's message names its place without them. Features that workerd may lack are not enabled.
const PASSES = [
  "-O3",
  "--always-inline-max-function-size=4",
  "--flexible-inline-max-function-size=0",
  "--one-caller-inline-max-function-size=20",
  "--skip-pass=local-cse",
  "--reorder-functions-by-name",
  "--strip-debug",
];
const FEATURES = [
  "mutable-globals",
  "sign-ext",
  "nontrapping-float-to-int",
  "bulk-memory",
  "multivalue",
  "reference-types",
  "exception-handling",
  "simd",
].map((feature) => `--enable-${feature}`);

// Tests import what is built, and the type checker follows them.
const UNCHECKED = "// @ts-nocheck\n";
const LEDGER = "src/worker/ledger.js";
const PRICES = "@pydantic/genai-prices";
const PRODUCTS = ["main.js", "ledger.js", "prices.js", "index.js", "index_bg.wasm", PAGE_MODULE];

/** Builds the Worker into build/. */
export async function build() {
  const rustc = await rust();
  const folder = path.join(root, "build");
  const stamp = path.join(folder, ".stamp");
  const inputs = fingerprint(rustc);
  const built = [stamp, ...PRODUCTS.map((name) => path.join(folder, name))].every(existsSync);
  if (built && readFileSync(stamp, "utf8") === inputs) {
    await npmPackages();
    return;
  }
  rmSync(stamp, { force: true });
  log("Building the Worker (a few minutes the first time, half a minute after that)");
  await compile({ crate: root, name: "reprise", main: path.join(root, MAIN), folder });
  await bundle({ entryPoints: [path.join(root, LEDGER)] }, path.join(folder, "ledger.js"));
  await bundle({ stdin: { contents: priceModule(), resolveDir: root } }, path.join(folder, "prices.js"));
  const wasm = readFileSync(path.join(folder, "index_bg.wasm"));
  const kB = (bytes) => `${Math.round(bytes / 1000)} kB`;
  log(`build/index_bg.wasm: ${kB(wasm.length)}, ${kB(gzipSync(wasm).length)} gzipped`);
  writeFileSync(stamp, inputs);
}

/**
 * Compiles the package `name` in the folder `crate` to a Worker of three modules in `folder`. `main`: the file of its main
 * module. With `optimize` false, the wasm stays as the compiler made it.
 */
export async function compile({ crate, name, main, folder, profile = "release", optimize = true, env = toolEnv }) {
  // Packages are fetched, and the program that runs after the compiler is compiled, beside it.
  await all([
    npmPackages(),
    run("cargo", ["build", "--quiet", "--locked", "--profile", "xtask", "--package", "xtask"]),
    run("cargo", ["build", "--locked", "--lib", "--profile", profile, "--target", TARGET], { cwd: crate, env }),
  ]);
  const metadata = await output("cargo", ["metadata", "--no-deps", "--format-version=1"], { cwd: crate, env });
  if (metadata === undefined) throw new UserError(`\`cargo metadata\` fails in ${crate}`);
  const target = JSON.parse(metadata).target_directory;
  const bindings = path.join(target, "bindgen", name);
  rmSync(bindings, { recursive: true, force: true });
  await run("cargo", ["xtask", "bindgen", path.join(target, TARGET, profile, `${name}.wasm`), bindings]);
  const wasm = path.join(bindings, "index_bg.wasm");
  if (optimize) {
    await run(node(), [path.join(modules, "binaryen", "bin", "wasm-opt"), wasm, "-o", wasm, ...PASSES, ...FEATURES]);
  }
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "main.js"), UNCHECKED + readFileSync(main, "utf8"));
  copyFileSync(wasm, path.join(folder, "index_bg.wasm"));
  await bundle({ entryPoints: [path.join(bindings, "index.js")] }, path.join(folder, "index.js"));
}

/** The price table with the data of its package, which the ledger imports when it is asked for money. */
function priceModule() {
  const { version } = JSON.parse(readFileSync(path.join(modules, PRICES, "package.json"), "utf8"));
  return `import { calcPrice } from ${JSON.stringify(PRICES)};
import { createPriceTable } from "./src/worker/ledger/prices.js";
export const priceTable = createPriceTable.bind(undefined, { calcPrice, version: ${JSON.stringify(`${PRICES} ${version}`)} });`;
}

/** Writes a module and those that it imports as one module. `entry`: options of esbuild. */
async function bundle(entry, outfile) {
  const esbuild = await import("esbuild");
  const { outputFiles } = await esbuild.build({
    ...entry,
    outfile,
    bundle: true,
    format: "esm",
    external: ["./index_bg.wasm", "./prices.js", `./${PAGE_MODULE}`, "cloudflare:*"],
    minify: true,
    write: false,
    logLevel: "warning",
  });
  // workerd has no source phase imports; an import of wasm there is the compiled module.
  const text = outputFiles[0].text.replaceAll("import source ", "import ");
  writeFileSync(outfile, UNCHECKED + text);
  // The page is a module of its own: neither the wasm nor its bindings grow with it.
  if (text.includes(PAGE_MODULE)) writeFileSync(path.join(path.dirname(outfile), PAGE_MODULE), await pageModule());
}

/** Waits for every one, whatever fails; then throws the first failure. */
async function all(tasks) {
  const results = await Promise.allSettled(tasks);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** Everything that a build depends on; taken before the build, so that a later edit builds again. */
function fingerprint(rustc) {
  const at = (file) => path.join(root, file);
  const { dependencies } = JSON.parse(readFileSync(at("package.json"), "utf8"));
  const packages = Object.entries(dependencies).flat();
  const inside = (folder) =>
    readdirSync(at(folder), { recursive: true })
      .sort()
      .map((file) => path.join(folder, file));
  const files = [
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "scripts/build.mjs",
    "scripts/dashboard.mjs",
    ...inside("xtask"),
    ...inside("src"),
    ...inside("dashboard"),
  ];
  const sources = files.filter((file) => statSync(at(file)).isFile()).flatMap((file) => [file, readFileSync(at(file))]);
  return sha256(process.env.RUSTFLAGS ?? "", rustc, ...packages, ...sources);
}

await main(import.meta, build);
