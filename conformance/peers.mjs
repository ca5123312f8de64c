// `npm run conformance:peers [-- --only litellm,nginx] [--case id,…]`: installs other caches, starts each on the loopback interface,
// runs the generic cases against them and against Reprise, and writes results/ and the README's table.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "../scripts/build.mjs";
import { cache, findProgram, log, main, root, run, systemEnv, systemPackages, UserError } from "../scripts/common.mjs";
import { systemPython } from "../scripts/python.mjs";
import { freePort, startProcess, temporaryFolder } from "../testkit/processes.mjs";
import { REPRISE } from "./engine/adapter.mjs";
import { failures, table, totals } from "./engine/report.mjs";
import { ScriptedUpstream } from "./engine/upstream.mjs";
import { PEERS } from "./peers/list.mjs";
import { conform, writeResults } from "./run.mjs";
import { startReprise } from "./start-reprise.mjs";

const RESULTS = fileURLToPath(new URL("results/", import.meta.url));
const INSTALLED = path.join(cache, "peers");
const START_LIMIT_MS = 120_000;
const CASE_LIMIT_MS = 12_000;

/** Installs a peer outside the checkout, once; returns what its `start` needs. */
async function install(peer) {
  if (peer.system) return installSystemPackage(peer.system);
  const { version, package: name, requirements } = peer.pip ?? peer.npm;
  const home = path.join(INSTALLED, `${peer.id}-${version}`);
  const complete = path.join(home, ".complete"); // written last: an interrupted installation is repeated
  if (!existsSync(complete)) {
    log(`Installing ${peer.name} ${version} into ${home}`);
    rmSync(home, { recursive: true, force: true });
    mkdirSync(home, { recursive: true });
    if (peer.pip) {
      const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...requirements];
      await run(await systemPython(), ["-m", "venv", home], { env: systemEnv });
      await run(path.join(home, "bin", "python"), pip, { env: systemEnv });
    } else {
      writeFileSync(path.join(home, "package.json"), '{"private":true}');
      const npm = ["install", "--no-audit", "--no-fund", "--loglevel=error", `${name}@${version}`];
      await run("npm", npm, { env: systemEnv, cwd: home });
    }
    writeFileSync(complete, "");
  }
  return { version, bin: path.join(home, "bin"), modules: path.join(home, "node_modules") };
}

async function installSystemPackage({ program, package: name, version }) {
  if (!findProgram(program)) await systemPackages(program, [name], `the package called ${name}`);
  const [found] = /\d[\w.]+/.exec(await allOutput(findProgram(program), version)) ?? ["?"];
  return { version: found, program: findProgram(program) };
}

const allOutput = (program, args) =>
  new Promise((resolve) => {
    let text = "";
    const child = spawn(program, args);
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (text += data));
    child.once("exit", () => resolve(text));
  });

/** Starts a peer: { target, version, adapter, stop }. */
async function start(peer, upstream) {
  const installed = await install(peer);
  if (peer.needs && !findProgram(peer.needs))
    await systemPackages(peer.needs, [peer.needs], `the package that brings ${peer.needs}`);
  const { folder, remove } = temporaryFolder(`reprise-${peer.id}-`);
  const [port, second] = [await freePort(), await freePort()];
  const redis = findProgram("redis-server");
  const command = peer.start({ port, second, upstream: upstream.origin, folder, redis, ...installed });
  // Nothing of this machine's configuration, so that everybody starts the same program.
  const env = { PATH: systemEnv.PATH, HOME: folder, ...command.env };
  const options = { name: peer.name, cwd: command.cwd ?? folder, env, extendEnv: false };
  const companion =
    command.companion && startProcess(command.companion[0], command.companion[1], { env, extendEnv: false });
  const program = startProcess(command.program, command.args, options);
  const origin = `http://127.0.0.1:${port}`;
  const isReady = () =>
    fetch(origin + (peer.ready ?? "/"), { signal: AbortSignal.timeout(2000) }).then(
      ({ status }) => status < 500 || !peer.ready,
      () => false,
    );
  await program.ready(isReady, { limitMs: START_LIMIT_MS, pollMs: 200 });
  const adapter = typeof peer.adapter === "function" ? peer.adapter({ upstream: upstream.origin }) : peer.adapter;
  const stop = async () => {
    await program.stop();
    await companion?.stop();
    remove();
  };
  return { target: origin + peer.base, version: installed.version, adapter: { name: peer.id, ...adapter }, stop };
}

const share = ({ pass, fail, na, inconclusive }) =>
  `${pass} of ${pass + fail}${na + inconclusive > 0 ? ` (+${na + inconclusive})` : ""}`;

/** The README's table of all results. */
function markdown(all) {
  const isStoring = /^(cache|stream)-(chat|completions|responses|messages|embeddings)(-stored)?$/;
  const rows = all.map(({ name, version, date, totals: counts, cases }) => {
    const wrong = cases.filter((result) => result.wrong && result.kind === "must" && result.outcome === "fail").length;
    const stored = cases.filter(({ id, outcome }) => isStoring.test(id) && outcome === "pass").length;
    return `| ${name} | ${version} | ${date} | ${share(counts.must)} | ${wrong} | ${share(counts.should)} | ${stored} of 9 |`;
  });
  return [
    "| cache | version | run | `must` | wrong responses | `should` | stores |",
    "|---|---|---|---|---|---|---|",
    ...rows,
  ].join("\n");
}

/** Puts a table between its marks in the README. */
export function intoReadme(mark, text) {
  const file = path.join(root, "README.md");
  const [before, rest] = readFileSync(file, "utf8").split(`<!-- ${mark} -->\n`);
  const after = rest?.split(`<!-- /${mark} -->`)[1];
  if (after === undefined) throw new UserError(`README.md has no marks for ${mark}`);
  writeFileSync(file, `${before}<!-- ${mark} -->\n${text}\n<!-- /${mark} -->${after}`);
}

async function startOurs(upstream) {
  await build();
  const { version } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  return { ...(await startReprise(upstream)), version, adapter: REPRISE };
}

await main(import.meta, async () => {
  const { values } = parseArgs({ options: { only: { type: "string" }, case: { type: "string" } } });
  const only = values.only?.split(",");
  const all = [{ id: "reprise", name: "Reprise" }, ...PEERS];
  const peers = all.filter(({ id }) => !only || only.includes(id));
  if (peers.length === 0) throw new UserError(`Peers are ${all.map(({ id }) => id).join(", ")}.`);
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));
  for (const peer of peers) {
    const upstream = await ScriptedUpstream.start();
    const running = peer.id === "reprise" ? await startOurs(upstream) : await start(peer, upstream);
    const started = Date.now();
    const cases = await conform({
      target: running.target,
      upstream,
      profile: "generic",
      adapter: running.adapter,
      only: values.case?.split(","),
      concurrency: 8,
      hitTimeoutMs: peer.hitTimeoutMs ?? 2000,
      limitMs: CASE_LIMIT_MS,
    });
    await running.stop();
    await upstream.close();
    log(`${peer.name} ${running.version}, ${((Date.now() - started) / 1000).toFixed(0)} s`);
    if (values.case) console.log(failures(cases));
    console.log(`${table(cases)}\n`);
    if (values.case) continue;
    writeResults(path.join(RESULTS, `${peer.id}.json`), {
      id: peer.id,
      name: peer.name,
      version: running.version,
      from: peer.from ?? "this repository",
      profile: "generic",
      date: new Date().toISOString().slice(0, 10),
      again: `npm run conformance:peers -- --only ${peer.id} --case ID`,
      totals: totals(cases),
      cases,
    });
  }
  if (values.case) return;
  const files = all.map(({ id }) => path.join(RESULTS, `${id}.json`)).filter((file) => existsSync(file));
  intoReadme("peers", markdown(files.map((file) => JSON.parse(readFileSync(file, "utf8")))));
  log(`Written to ${path.relative(root, RESULTS)} and README.md`);
});
