// nginx as a cache, for reference: as the conformance suite sets it up, with the question in the key.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { PEERS } from '../conformance/peers/list.mjs';
import { freePort, which } from '../scripts/lib.mjs';
import { serve, temporary } from './processes.mjs';

const peer = PEERS.find(({ id }) => id === 'nginx');
const program = which('nginx');

/** Its version, or undefined where it is not installed. */
export const version = program && /[\d.]+/.exec(execFileSync('sh', ['-c', '"$0" -v 2>&1', program], { encoding: 'utf8' }))[0];

/** nginx before an upstream, for questions of up to `size` bytes: its buffers have to take the key, which holds the question. */
export async function startNginx(upstream, size) {
  const { folder, remove } = temporary();
  const port = await freePort();
  const { args } = peer.start({ port, upstream, folder, program });
  const file = path.join(folder, 'nginx.conf');
  const buffer = `${Math.ceil(size / 1024) + 8}k`;
  writeFileSync(file, readFileSync(file, 'utf8').replace('proxy_cache answers;', `proxy_cache answers;
      proxy_buffer_size ${buffer};
      proxy_buffers 4 ${buffer};
      proxy_busy_buffers_size ${buffer};`));
  const running = serve('nginx', program, args, `http://127.0.0.1:${port}`);
  return {
    ...running,
    async stop() {
      await running.stop();
      remove();
    },
  };
}
