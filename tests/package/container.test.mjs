// The files of the container image, in a root that the same script builds as for `docker build`. The system of this machine is mounted
// into it in place of Debian's image, and it runs with a user, processes and mounts of its own. Docker itself is not run.

import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, afterEach, test } from "node:test";
import { ScriptedUpstream } from "../../conformance/engine/upstream.mjs";
import { conform, failed } from "../../conformance/run.mjs";
import { findProgram } from "../../scripts/common.mjs";
import { page } from "../../scripts/dashboard.mjs";
import { send } from "../../testkit/client.mjs";
import { entryFiles, filesBelow, install } from "../../testkit/command.mjs";
import { freePort, ROOT, temporaryFolder } from "../../testkit/processes.mjs";
import { waitFor, withTimeout } from "../../testkit/wait.mjs";

const USER = 10001; // as in the Dockerfile
const SYSTEM = ["bin", "lib", "lib64", "usr", "etc/ssl", "dev", "proc"];

const skip =
  process.getuid?.() === 0 && ["unshare", "chroot", "flock", "numfmt"].every(findProgram)
    ? false
    : "this needs root on Linux";

const upstream = await ScriptedUpstream.start();
after(() => upstream.close());
const { folder: root } = temporaryFolder();
chmodSync(root, 0o755); // that of a temporary folder is 700
const containers = [];
if (!skip) {
  const { folder } = await install();
  execFileSync(process.execPath, [path.join(ROOT, "container", "build-root.mjs"), folder, root]);
}
const data = path.join(root, "data");
rmSync(data, { recursive: true, force: true }); // `COPY --chown` changes its owner

process.once("exit", () => {
  for (const { kill } of containers) kill();
});
afterEach(async () => {
  for (const { kill, ended } of containers.splice(0)) {
    kill();
    await ended;
  }
  rmSync(data, { recursive: true, force: true });
});

/**
 * Starts the entry point as process 1 of a namespace: { url, ended, written, isHealthy, stop }.
 *
 * @param {Record<string, string>} [variables]
 */
async function launch(variables = {}) {
  if (!existsSync(data)) {
    mkdirSync(data);
    chownSync(data, USER, USER);
  }
  const port = await freePort();
  const mounts = SYSTEM.filter((name) => existsSync(`/${name}`)).map((name) =>
    name === "proc" ? "mkdir -p proc && mount -t proc proc proc" : `mkdir -p ${name} && mount --rbind /${name} ${name}`,
  );
  const script = [
    `cd ${root}`,
    ...mounts,
    "mkdir -p tmp && mount -t tmpfs -o mode=1777 none tmp",
    `exec chroot --userspec=${USER}:${USER} ${root} /usr/bin/env -i PATH=/usr/bin:/bin "$@" /opt/reprise/start.sh`,
  ].join(" && ");
  const env = {
    PORT: String(port),
    REPRISE_OPENAI_BASE_URL: `${upstream.origin}/v1`,
    REPRISE_MAX_RETRIES: "0",
    ...variables,
  };
  const texts = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const child = spawn("unshare", ["--mount", "--pid", "--fork", "sh", "-c", script, "sh", ...texts], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let written = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (written += text));
  const ended = once(child, "close").then(([code]) => code);
  // The process 1, by its number outside.
  const main = () => {
    const children = `/proc/${child.pid}/task/${child.pid}/children`;
    return existsSync(children) ? Number(readFileSync(children, "utf8")) : 0;
  };
  // Process 1 has another user, so that it does not end with its parent. Its namespace ends with it.
  containers.push({ kill: () => main() && process.kill(main(), "SIGKILL"), ended });
  return {
    url: `http://127.0.0.1:${port}`,
    ended,
    main,
    written: () => written,
    isHealthy() {
      const inside = [`--target=${main()}`, "--mount", "--pid", `--root=/proc/${main()}/root`, "--wd=/"];
      const check = ["/usr/bin/env", "-i", `PORT=${port}`, "/opt/reprise/health.sh"];
      return spawnSync("nsenter", [...inside, ...check], { stdio: "ignore" }).status === 0;
    },
    /** Ends it as `docker stop` does. */
    async stop() {
      process.kill(main(), "SIGTERM");
      return withTimeout(ended, "the container to end");
    },
  };
}

/** @param {Parameters<typeof launch>[0]} [variables] */
async function start(variables) {
  const container = await launch(variables);
  const failed = container.ended.then((code) => {
    throw new Error(`the container ended (${code}):\n${container.written()}`);
  });
  failed.catch(() => {});
  await Promise.race([waitFor(() => container.isHealthy(), "the health check to succeed"), failed]);
  return container;
}

function newRequest() {
  const { token, calls } = upstream.add(`cf${randomBytes(8).toString("hex")}`);
  return {
    calls,
    request: {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-client" },
      body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: `What is ${token}?` }] }),
    },
  };
}

test("the container serves as another user, and what it stores outlasts it", { skip }, async () => {
  const container = await start();
  const status = readFileSync(`/proc/${container.main()}/status`, "utf8");
  assert.match(status, new RegExp(`^Uid:\\s+${USER}\\s+${USER}`, "m"));
  assert.match(status, /^Name:\s+workerd$/m);
  const { request, calls } = newRequest();
  const first = await send(container.url, request);
  assert.equal(first.status, 200, first.body.toString());
  assert.equal(first.headers["x-cache-status"], "MISS");
  await waitFor(() => container.written().includes('"cache":"MISS"'), "the log line");
  const second = await send(container.url, request);
  assert.equal(second.headers["x-cache-status"], "HIT");
  assert.deepEqual(second.body, first.body);
  const [file, ...others] = entryFiles(data);
  assert.deepEqual(others, []);
  assert.equal(statSync(file).uid, USER);
  assert.equal(await container.stop(), 0);

  const again = await start();
  const third = await send(again.url, request);
  assert.equal(third.headers["x-cache-status"], "HIT");
  assert.deepEqual(third.body, first.body);
  assert.equal(calls.length, 1);
});

test("the image holds workerd, the Worker and two scripts, and nothing that only root may read", { skip }, () => {
  const names = filesBelow(path.join(root, "opt")).map((file) => path.relative(path.join(root, "opt/reprise"), file));
  assert.deepEqual(names.sort(), [
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "build/dashboard-page.js",
    "build/index.js",
    "build/index_bg.wasm",
    "build/ledger.js",
    "build/main.js",
    "build/prices.js",
    "cli/kv-server.js",
    "cli/worker.js",
    "health.sh",
    "no-store.capnp",
    "start.sh",
    "store.capnp",
    "workerd",
  ]);
  for (const file of filesBelow(path.join(root, "opt"))) assert.equal(statSync(file).mode & 0o444, 0o444, file);
});

test("the conformance cases pass in the container", { skip }, async () => {
  const container = await start();
  const results = await conform({
    target: `${container.url}/proxy`,
    upstream,
    profile: "reprise",
    topic: ["streaming", "status", "truncation"],
    concurrency: 4,
  });
  assert.ok(results.length > 50);
  assert.deepEqual(failed(results, true), []);
});

test("variables reach the Worker, and the configuration holds no value", { skip }, async () => {
  const token = "token-4d5e6f";
  const container = await start({ REPRISE_PROXY_TOKENS: token });
  const { request } = newRequest();
  assert.equal((await send(container.url, request)).status, 401);
  const headers = { ...request.headers, authorization: `Bearer ${token}` };
  assert.notEqual((await send(container.url, { ...request, headers })).status, 401);
  assert.doesNotMatch(container.written(), /PROXY_TOKENS/);
  const temporary = filesBelow(`/proc/${container.main()}/root/tmp`);
  assert.equal(temporary.length, 1);
  assert.ok(!readFileSync(temporary[0], "utf8").includes(token));
});

test("the container serves the dashboard where ADMIN_TOKEN is set", { skip }, async () => {
  const container = await start({ REPRISE_ADMIN_TOKEN: "admin-of-the-test" });
  const reply = await send(container.url, { method: "GET", path: "/dashboard" });
  assert.equal(reply.status, 200);
  assert.equal(reply.body.toString(), (await page()).html);
});

test("above MAX_SIZE, entries are deleted", { skip }, async () => {
  const container = await start({ MAX_SIZE: "1.5kB" });
  for (let n = 1; n <= 4; n += 1) {
    assert.equal((await send(container.url, newRequest().request)).status, 200);
    await waitFor(() => container.written().match(/"cache":"MISS"/g)?.length === n, "the log line");
  }
  const size = entryFiles(data).reduce((sum, file) => sum + statSync(file).size, 0);
  assert.ok(size > 0 && size <= 1500, String(size));
  const wrong = await launch({ MAX_SIZE: "big" });
  assert.equal(await wrong.ended, 1);
  assert.match(wrong.written(), /MAX_SIZE expects a size/);
});

test("a second container on the volume is refused, and so is a newer format", { skip }, async () => {
  const container = await start();
  const second = await launch();
  assert.equal(await second.ended, 1);
  assert.match(second.written(), /\/data is in use by another container/);
  assert.equal(await container.stop(), 0);
  writeFileSync(path.join(data, "format"), "2\n");
  const newer = await launch();
  assert.equal(await newer.ended, 1);
  assert.match(newer.written(), /\/data has format 2, and this version knows format 1/);
});

test("a volume that cannot be written is named, and requests are served", { skip }, async () => {
  mkdirSync(data);
  const container = await start();
  assert.match(container.written(), /\/data cannot be written: responses are not stored/);
  const reply = await send(container.url, newRequest().request);
  assert.equal(reply.status, 200, reply.body.toString());
});
