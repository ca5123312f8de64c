// Starts our own built Worker, for the suite, the clients and the mutations.

import { install, startCommand } from "../testkit/command.mjs";
import { startMiniflare } from "../testkit/worker.mjs";

// REPRISE_MEMORY: the size of the memory cache, in place of the default.
const memory = process.env.REPRISE_MEMORY ? { MEMORY_CACHE_BYTES: process.env.REPRISE_MEMORY } : {};

/**
 * Starts `build/`, or another folder's modules, in front of `upstream`: { target, origin, stop }. `packed`: starts the command
 * `reprise` instead, as installed from its tarball.
 *
 * @param {{ origin: string }} upstream
 * @param {{ build?: string, vars?: Record<string, string>, packed?: boolean }} [options]
 */
export async function startReprise(upstream, { build, vars = {}, packed = false } = {}) {
  // Without retries: the cases look at the upstream's first response.
  const fixed = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
  const all = { ...fixed, ...memory, ...vars };
  const { origin, stop } = packed ? await startPacked(all) : await startBuilt(build, all);
  return { origin, target: `${origin}/proxy`, stop };
}

async function startBuilt(build, vars) {
  const worker = await startMiniflare({ build, vars });
  return { origin: worker.origin, stop: () => worker.dispose() };
}

async function startPacked(vars) {
  const { folder } = await install();
  const command = await startCommand(folder, {
    args: ["--quiet", ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`])],
  });
  return { origin: command.url, stop: () => command.stop() };
}
