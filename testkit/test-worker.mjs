// The Worker as the tests want it: in Miniflare, shared between tests that want the same, and stopped when the test file ends.

import { after } from "node:test";
import { startMiniflare } from "./worker.mjs";

// Nothing stays in memory, so that the store is seen. A busy machine must not make the store late. Coalescing must make no
// difference to most tests: they run with it and without it.
const TEST_VARS = {
  STORE_TIMEOUT_MS: "20000",
  MEMORY_CACHE_BYTES: process.env.REPRISE_MEMORY ?? "0",
  COALESCE_TTL: "0",
  COALESCE: process.env.REPRISE_COALESCE ?? "true",
};

const pool = new Map();
after(() => Promise.all([...pool.values()].map(async (instance) => (await instance).dispose())));

/**
 * The Worker with these options of `startMiniflare`. Calls with the same options share an instance.
 *
 * @param {Parameters<typeof startMiniflare>[0]} [options]
 */
export function worker({ vars = {}, ...options } = {}) {
  const key = JSON.stringify([Object.entries(vars).sort(), Object.entries(options).sort()]);
  if (!pool.has(key)) pool.set(key, startMiniflare({ ...options, vars: { ...TEST_VARS, ...vars } }));
  return pool.get(key);
}

/** Stops an instance now, in a file that needs many variants one after the other. */
export async function release(instance) {
  for (const [key, pooled] of pool) if ((await pooled) === instance) pool.delete(key);
  await instance.dispose();
}
