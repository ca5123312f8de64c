// Full, read-only and damaged folders. A file system of its own in a private mount namespace is the folder's disk.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, mkdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";
import { entryFiles, filesBelow, install, isRunning, startCommand } from "../../testkit/command.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

/** How a process gets mounts of its own, where this user may have that. */
const unshare = [["--mount"], ["--mount", "--user", "--map-root-user"]].find((args) => {
  try {
    execFileSync("unshare", [...args, "mount", "-t", "tmpfs", "none", "/tmp"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
});
const skip = unshare ? false : "this user may not mount a file system";

const upstream = await startUpstream();
after(() => upstream.close());
const { folder } = await install();
const dir = path.join(folder, ".reprise");
const started = [];
const holders = [];

beforeEach(() => {
  upstream.reset();
  upstream.otherwise((call) => {
    const message = { role: "assistant", content: `${call.n} ${"x".repeat(2000)}` };
    return { json: { choices: [{ index: 0, message, finish_reason: "stop" }] } };
  });
  mkdirSync(dir, { recursive: true });
});
afterEach(async () => {
  for (const command of started.splice(0)) if (isRunning(command.pid)) await command.stop("SIGTERM");
  for (const holder of holders.splice(0)) holder.kill("SIGKILL");
  rmSync(dir, { recursive: true, force: true });
});

/**
 * A disk of 2 MiB as the folder of the command, for every start with `within`. `files`: the disk as this process sees it.
 *
 * @returns {Promise<{ files: string, within: string[] }>}
 */
async function mountDisk() {
  const script = 'mount -t tmpfs -o size=2m none "$1" && echo mounted && exec sleep infinity';
  const holder = spawn("unshare", [...unshare, "sh", "-c", script, "sh", dir], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  holders.push(holder);
  await once(holder.stdout, "data");
  const namespaces = unshare.includes("--user") ? ["--user", "--preserve-credentials", "--mount"] : ["--mount"];
  return {
    files: `/proc/${holder.pid}/root${dir}`,
    within: ["nsenter", `--target=${holder.pid}`, ...namespaces, `--wd=${folder}`],
  };
}

/** @param {{ within?: string[] }} [disk] */
async function start({ within } = {}) {
  const args = ["--upstream", `${upstream.origin}/v1`, "--var", "MAX_RETRIES:0"]; // nor are writes retried
  const command = await startCommand(folder, { args, within });
  started.push(command);
  return command;
}

const request = (model, headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-client", ...headers },
  body: JSON.stringify({ model, messages: [{ role: "user", content: "?" }] }),
});

/** Sends a request and waits for the end of it: [status, X-Cache-Status, reason]. */
async function outcome(command, model) {
  const reply = await command.settled(request(model));
  return [reply.status, reply.headers["x-cache-status"], command.requests.at(-1).reason];
}

/** Writes a file until its disk has `left` bytes. */
function fill(file, left = 0) {
  writeFileSync(file, "");
  assert.throws(() => {
    for (;;) appendFileSync(file, Buffer.alloc(4096));
  }, /ENOSPC/);
  if (left > 0) truncateSync(file, statSync(file).size - left);
}

test("on a full disk requests are served, and stored again when there is space", { skip }, async () => {
  const disk = await mountDisk();
  const command = await start(disk);
  assert.deepEqual(await outcome(command, "before"), [200, "MISS", null]);
  const filler = path.join(disk.files, "filler");
  fill(filler);
  const outcomes = [];
  for (let n = 0; n < 6; n += 1) outcomes.push(await outcome(command, `full ${n}`));
  assert.ok(outcomes.every(([status, cache]) => status === 200 && cache === "MISS"));
  assert.equal(outcomes.at(-1)[2], "store-error");
  assert.match(command.stderr, /could not be stored in .*: no space is left there\. Requests are still served\./);
  assert.equal(command.stderr.match(/could not be stored/g).length, 1);
  rmSync(filler);
  assert.deepEqual(await outcome(command, "after"), [200, "MISS", null]);
  await command.stop();
  const again = await start(disk);
  for (const model of ["before", "after"]) assert.equal((await outcome(again, model))[1], "HIT");
  const stored = outcomes.filter(([, , reason]) => reason === null);
  assert.equal(entryFiles(disk.files).length, 2 + stored.length);
});

test("a disk that is full at the start is named, and the folder can be used later", { skip }, async () => {
  const disk = await mountDisk();
  const filler = path.join(disk.files, "filler");
  // Too full for a lock, and for a database.
  for (const left of [0, 8, 32]) {
    fill(filler, left * 1024);
    const command = await start(disk);
    assert.match(
      command.stderr,
      /\.reprise cannot be (written|used) \((ENOSPC|no space left)\): responses are not stored/,
    );
    assert.equal(command.lines[0].dir, null);
    assert.deepEqual(await outcome(command, "unstored"), [200, "BYPASS", "store-missing"]);
    await command.stop();
  }
  rmSync(filler);
  assert.deepEqual(await outcome(await start(disk), "stored"), [200, "MISS", null]);
  assert.equal(entryFiles(disk.files).length, 1);
});

test("a read-only folder is named, and requests are served", { skip }, async () => {
  const disk = await mountDisk();
  await (await start(disk)).stop();
  execFileSync(disk.within[0], [...disk.within.slice(1), "mount", "-o", "remount,ro", dir]);
  const command = await start(disk);
  assert.match(command.stderr, /\.reprise cannot be written \(EROFS\): responses are not stored there/);
  assert.deepEqual(await outcome(command, "unstored"), [200, "BYPASS", "store-missing"]);
});

test("a damaged index is rebuilt, and no entry is lost", async () => {
  const command = await start();
  assert.deepEqual(await outcome(command, "kept"), [200, "MISS", null]);
  await command.stop();
  const databases = () => filesBelow(path.join(dir, "index")).filter((file) => file.endsWith(".sqlite"));
  assert.equal(databases().length, 2);
  for (const isDamaged of [(file) => file.includes("metadata"), (file) => !file.includes("metadata")]) {
    for (const file of databases().filter(isDamaged)) writeFileSync(file, "no database".repeat(1000));
    // The runtime opens one of them at the start, and the other when something is stored.
    let again = await start();
    await outcome(again, "noticed");
    assert.match(again.stderr, /The index .* is damaged/);
    await again.stop();
    again = await start();
    assert.equal(again.stderr, "");
    for (const model of [`new ${isDamaged}`]) assert.deepEqual(await outcome(again, model), [200, "MISS", null]);
    const reply = await again.settled(request("kept", { "cache-control": "only-if-cached" }));
    assert.equal(reply.status, 200);
    await again.stop();
  }
});
