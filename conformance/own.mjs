// Our own built worker in workerd, for the suite, the clients and the mutations.

import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

// REPRISE_MEMORY: the size of the tier in memory, in place of the default.
const memory = process.env.REPRISE_MEMORY ? { MEMORY_CACHE_BYTES: process.env.REPRISE_MEMORY } : {};
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);

/** Starts `build/` (or another folder's) in front of `upstream`: { target, origin, stop }. */
export async function ownWorker(upstream, { build = path.join(ROOT, 'build'), vars = {}, onLog = () => {} } = {}) {
  const wrangler = require('wrangler');
  const { Miniflare, convertV4MiniflareOptions } = createRequire(require.resolve('wrangler'))('miniflare');
  if (!existsSync(path.join(build, 'index.js'))) throw new Error('There is no built worker: run `npm run build` first.');
  const config = wrangler.unstable_readConfig({ config: path.join(ROOT, 'wrangler.toml') });
  const { workerOptions } = wrangler.unstable_getMiniflareWorkerOptions(config);
  const parts = (extension) => readdirSync(build).filter((name) => name.endsWith(extension)).map((name) => path.join(build, name));
  const main = path.join(build, path.basename(config.main));
  const miniflare = new Miniflare(convertV4MiniflareOptions({
    ...workerOptions,
    name: 'worker',
    // Retries are the upstream's business in these cases: the first answer is the one that is looked at.
    bindings: { ...config.vars, OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: '0', ...memory, ...vars },
    modulesRoot: path.dirname(build),
    modules: [{ type: 'ESModule', path: main },
      ...parts('.js').filter((file) => file !== main).map((file) => ({ type: 'ESModule', path: file })),
      ...parts('.wasm').map((file) => ({ type: 'CompiledWasm', path: file }))],
    // A socket straight into the worker: nothing stands between the bytes and the cases.
    unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
    host: '127.0.0.1',
    port: 0,
    cf: false, // nothing to fetch from the internet
    handleStructuredLogs: onLog,
  }));
  await miniflare.ready;
  const { origin } = await miniflare.unsafeGetDirectURL();
  return { origin, target: `${origin}/proxy`, stop: () => miniflare.dispose() };
}
