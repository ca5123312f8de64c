// The built Worker in front of an upstream on this machine, for the demo.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, root, toolEnv, UserError, wrangler } from "./common.mjs";

/** The built Worker in `wrangler dev`, with an empty cache of its own and no variables but `vars`. */
export async function startWorker(upstreamBase, vars = {}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "reprise-demo-"));
  const noVars = path.join(folder, "vars");
  writeFileSync(noVars, "");
  const port = await freePort();
  const given = Object.entries({ OPENAI_BASE_URL: upstreamBase, ...vars });
  const [program, args] = wrangler(
    "dev",
    "--port",
    port,
    "--inspector-port",
    await freePort(),
    "--persist-to",
    folder,
    "--env-file",
    noVars,
    ...given.flatMap(([name, value]) => ["--var", `${name}:${value}`]),
    "--show-interactive-dev-session=false",
  );
  const env = { ...toolEnv, WRANGLER_REGISTRY_PATH: path.join(folder, "registry") };
  // A process group of its own, so that wrangler and the workerd it starts end together.
  const child = spawn(program, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  let log = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (data) => {
      log += data;
    });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const kill = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch {
      /* it has ended */
    }
  };
  const cleanUp = () => {
    kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  };
  process.once("exit", cleanUp); // however the demo ends

  const url = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + 60_000;
  while (
    !(await fetch(`${url}/healthz`).then(
      (response) => response.ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null || Date.now() > deadline) throw new UserError(`The worker did not start:\n${log}`);
    await sleep(100);
  }
  const stop = async () => {
    kill("SIGTERM");
    await Promise.race([ended, sleep(5000, undefined, { ref: false })]);
  };
  return { url, stop };
}
