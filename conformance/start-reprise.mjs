// Starts our own built Worker, for the suite, the clients and the mutations.

import { startMiniflare } from "../testkit/worker.mjs";

// REPRISE_MEMORY: the size of the memory cache, in place of the default.
const memory = process.env.REPRISE_MEMORY ? { MEMORY_CACHE_BYTES: process.env.REPRISE_MEMORY } : {};

/**
 * Starts `build/`, or another folder's modules, in front of `upstream`: { target, origin, stop }.
 *
 * @param {{ origin: string }} upstream
 * @param {{ build?: string, vars?: Record<string, string> }} [options]
 */
export async function startReprise(upstream, { build, vars = {} } = {}) {
  // Without retries: the cases look at the upstream's first response.
  const fixed = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
  const worker = await startMiniflare({ build, vars: { ...fixed, ...memory, ...vars } });
  return { origin: worker.origin, target: `${worker.origin}/proxy`, stop: () => worker.dispose() };
}
