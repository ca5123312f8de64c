// `wrangler dev` on the product's own wrangler.toml: what `npm start` serves, without the browser and the defaults
// that are in a test's way (the port, and where local data is kept).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { ROOT } from "./support/worker.mjs";

const START_LIMIT_MS = 180_000; // wrangler runs the build first; nothing is compiled if it is up to date

test("wrangler dev serves, and a repeat is a hit", async (t) => {
  const upstream = await startUpstream();
  t.after(() => upstream.close());
  const origin = await serve(t, { OPENAI_BASE_URL: `${upstream.origin}/v1` });
  const ask = () =>
    send(origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
      body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] }),
    });

  const alive = await send(origin, { method: "GET", path: "/healthz" });
  assert.equal(alive.body.toString(), '{"ok":true}');

  upstream.otherwise({ body: '{ "id" : "answer" }\n' });
  const first = await ask();
  assert.equal(first.status, 200);
  assert.equal(expect.cacheStatus(first), "MISS");
  assert.equal(first.body.toString(), '{ "id" : "answer" }\n');
  // The write happens behind the first answer: ask until it is there. The upstream counts what that took.
  const again = await within(untilHit(ask), "a hit");
  expect.sameBytes(again.body, first.body, "the repeat");
  const calls = upstream.calls.length;
  assert.equal(expect.cacheStatus(await ask()), "HIT");
  assert.equal(upstream.calls.length, calls, "a hit asks nobody");
});

async function untilHit(ask) {
  for (;;) {
    const reply = await ask();
    assert.equal(reply.status, 200);
    if (expect.cacheStatus(reply) === "HIT") return reply;
  }
}

// Ports are chosen before they are taken, ours and wrangler's own: if another program was quicker, choose again.
async function serve(t, vars) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await start(t, vars);
    } catch (error) {
      if (attempt === 3 || !/Address already in use/.test(error.message)) throw error;
    }
  }
}

async function start(t, vars) {
  const folder = await mkdtemp(path.join(tmpdir(), "reprise-dev-"));
  const require = createRequire(import.meta.url);
  const program = path.join(path.dirname(require.resolve("wrangler/package.json")), "bin/wrangler.js");
  const port = await freePort();
  const args = ["dev", "--port", String(port), "--persist-to", folder, "--show-interactive-dev-session=false"];
  for (const [name, value] of Object.entries(vars)) args.push("--var", `${name}:${value}`);
  const env = {
    ...process.env,
    CI: "1",
    NO_COLOR: "1",
    WRANGLER_HIDE_BANNER: "true", // nor a look for a newer wrangler
    WRANGLER_LOG_PATH: folder,
    WRANGLER_SEND_METRICS: "false",
    CLOUDFLARE_CF_FETCH_ENABLED: "false",
  };
  const child = spawn(process.execPath, [program, ...args], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
  const gone = once(child, "exit");
  t.after(async () => {
    child.kill("SIGTERM");
    await within(gone, "wrangler dev to stop");
    await rm(folder, { recursive: true, force: true });
  });
  let output = "";
  const ready = new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => {
        output += data;
        if (/Ready on http/.test(output)) resolve();
      });
    }
    gone.then(([code]) => reject(new Error(`wrangler dev ended with ${code}`)));
  });
  try {
    await within(ready, "wrangler dev to be ready", START_LIMIT_MS);
  } catch (error) {
    error.message += `:\n${output}`;
    throw error;
  }
  return `http://localhost:${port}`;
}

async function freePort() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
