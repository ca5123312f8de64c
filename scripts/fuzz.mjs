// `npm run fuzz [-- SECONDS [TARGET…]]`: each fuzz target for a while (20 seconds), from the committed seeds.
import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { cache, isExecutable, log, main, root, run, systemEnv, toolEnv } from "./common.mjs";
import { rust } from "./setup.mjs";

const CARGO_FUZZ = "0.13.2";

await main(import.meta, async () => {
  const { positionals } = parseArgs({ allowPositionals: true });
  const [seconds = "20", ...wanted] = positionals;
  const fuzz = path.join(root, "fuzz");
  const targets = readdirSync(path.join(fuzz, "fuzz_targets")).map((file) => path.basename(file, ".rs"));
  await rust();
  const program = await cargoFuzz();
  for (const target of wanted.length > 0 ? wanted : targets) {
    log(`${target}: ${seconds} seconds`);
    const corpus = path.join(fuzz, "corpus", target);
    mkdirSync(corpus, { recursive: true });
    // Without a sanitizer a stable compiler will do; there is no unsafe code to look for.
    const args = ["run", "--sanitizer", "none", target, corpus, path.join(fuzz, "seeds", target), "--"];
    await run(program, [...args, `-max_total_time=${seconds}`, "-print_final_stats=0", "-verbosity=0"], {
      env: { ...systemEnv, CARGO_TERM_QUIET: "true" },
    });
  }
});

/** The path of cargo-fuzz, compiled once into the cache. */
async function cargoFuzz() {
  const home = path.join(cache, `cargo-fuzz-${CARGO_FUZZ}`);
  const program = path.join(home, "bin", process.platform === "win32" ? "cargo-fuzz.exe" : "cargo-fuzz");
  if (isExecutable(program)) return program;
  const partial = `${home}.partial`; // renamed at the end; an interrupted compilation continues here
  mkdirSync(partial, { recursive: true });
  log(`Compiling cargo-fuzz ${CARGO_FUZZ}: once, about 2 minutes on two cores`);
  const [built, target] = [path.join(partial, "root"), path.join(partial, "target")];
  // On PATH only so that cargo does not tell the user to put it there.
  const env = { ...toolEnv, PATH: toolEnv.PATH + path.delimiter + path.join(built, "bin") };
  const args = ["install", `cargo-fuzz@${CARGO_FUZZ}`, "--locked", "--force", "--no-track"];
  try {
    await run("cargo", [...args, "--root", built, "--target-dir", target], { cwd: partial, env });
    rmSync(home, { recursive: true, force: true });
    renameSync(built, home);
  } catch (error) {
    if (!isExecutable(program)) throw error; // another clone may have been faster
  }
  rmSync(partial, { recursive: true, force: true });
  return program;
}
