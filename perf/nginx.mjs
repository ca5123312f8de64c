// nginx as a cache, for reference: set up as in the conformance suite, with the request body in the key.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { PEERS } from "../conformance/peers/list.mjs";
import { findProgram } from "../scripts/common.mjs";
import { freePort, responseOf, startProcess, temporaryFolder } from "../testkit/processes.mjs";

const peer = PEERS.find(({ id }) => id === "nginx");
const program = findProgram("nginx");

/** Its version, or undefined where it is not installed. */
export const version =
  program && /[\d.]+/.exec(execFileSync("sh", ["-c", '"$0" -v 2>&1', program], { encoding: "utf8" }))[0];

/** nginx in front of an upstream, for requests of up to `size` bytes: its buffers must hold the key, which contains the body. */
export async function startNginx(upstream, size) {
  const { folder, remove } = temporaryFolder();
  const port = await freePort();
  const { args } = /** @type {any} */ (peer).start({ port, upstream, folder, program });
  const file = path.join(folder, "nginx.conf");
  const buffer = `${Math.ceil(size / 1024) + 8}k`;
  writeFileSync(
    file,
    readFileSync(file, "utf8").replace(
      "proxy_cache responses;",
      `proxy_cache responses;
      proxy_buffer_size ${buffer};
      proxy_buffers 4 ${buffer};
      proxy_busy_buffers_size ${buffer};`,
    ),
  );
  const running = startProcess(program, args, { name: "nginx" });
  const url = `http://127.0.0.1:${port}`;
  return {
    ...running,
    url,
    ready: (at = "/", init = {}) => running.ready(() => responseOf(url + at, init), { pollMs: 1 }),
    async stop() {
      await running.stop();
      remove();
    },
  };
}
