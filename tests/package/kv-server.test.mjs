// The KV server in workerd, behind the runtime's own KV binding.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { workerdConfig } from "../../cli/workerd-config.js";
import { startWorkerd } from "../../cli/workerd-process.js";
import { entryFiles } from "../../testkit/command.mjs";
import { ROOT } from "../../testkit/processes.mjs";
import { waitFor } from "../../testkit/wait.mjs";

// Runs one operation of the binding and gives its result as JSON.
const DRIVER = `
export class Coalescer {}
export default {
  async fetch(request, env) {
    const [operation, ...args] = await request.json();
    try {
      return Response.json({ result: (await env.OPENAI_CACHE[operation](...args)) ?? null });
    } catch (error) {
      return Response.json({ error: error.message });
    }
  },
};
`;

const running = [];
const folders = [];
after(async () => {
  await Promise.all(running.map((workerd) => workerd.stop({ atOnce: true })));
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/**
 * A folder with the KV server on it: { folder, start }. `start` gives the binding's operations, and `stop`.
 *
 * @param {{ maxBytes?: number, folder?: string }} [options]
 */
function store({ maxBytes, folder = mkdtempSync(path.join(os.tmpdir(), "reprise-")) } = {}) {
  folders.push(folder);
  const at = (name) => path.join(folder, name);
  writeFileSync(at("driver.js"), DRIVER);
  for (const name of ["entries", "index", "objects"]) mkdirSync(at(name), { recursive: true });
  const config = workerdConfig({
    folder,
    modules: [["driver.js", at("driver.js")]],
    variables: [],
    host: "127.0.0.1",
    port: 0,
    store: {
      entries: at("entries"),
      index: at("index"),
      objects: at("objects"),
      maxBytes,
      server: path.join(ROOT, "cli", "kv-server.js"),
    },
  });
  writeFileSync(at("config.capnp"), config);
  const start = async () => {
    const log = [];
    const options = { config: at("config.capnp"), env: process.env };
    const workerd = startWorkerd({
      ...options,
      onLine: (line) => log.push(line),
      onErrorLine: (line) => log.push(line),
    });
    running.push(workerd);
    const port = await workerd.port.catch(() => assert.fail(log.join("\n")));
    const call = async (...call) => {
      const response = await fetch(`http://127.0.0.1:${port}`, { method: "POST", body: JSON.stringify(call) });
      const { result, error } = await response.json();
      if (error) throw new Error(error);
      return result;
    };
    return {
      get: (name) => call("get", name),
      getWithMetadata: (name) => call("getWithMetadata", name),
      put: (name, value, options) => call("put", name, value, options),
      delete: (name) => call("delete", name),
      list: (options) => call("list", options),
      stop: (options) => workerd.stop(options),
    };
  };
  return { folder, start };
}

const names = ({ keys }) => keys.map(({ name }) => name);

test("values of any name come back, after a restart too", async () => {
  const { folder, start } = store();
  const values = new Map(
    ["plain", "with:colon", "UPPER", "upper", "a/b/../c", ".hidden", "é ünï %41 ?#", "=3d", "x"].map((name) => [
      name,
      `value of ${name}`,
    ]),
  );
  let kv = await start();
  for (const [name, value] of values) await kv.put(name, value);
  assert.equal(entryFiles(folder).length, values.size);
  for (const [name, value] of values) assert.equal(await kv.get(name), value, name);
  await kv.stop();
  kv = await start();
  for (const [name, value] of values) assert.equal(await kv.get(name), value, name);
  assert.deepEqual(names(await kv.list({})).sort(), [...values.keys()].sort());
});

test("a value is replaced, with its metadata, and an empty value is a value", async () => {
  const kv = await store().start();
  await kv.put("name", "first", { metadata: { n: 1 } });
  assert.deepEqual((await kv.getWithMetadata("name")).metadata, { n: 1 });
  await kv.put("name", "");
  const { value, metadata } = await kv.getWithMetadata("name");
  assert.deepEqual([value, metadata], ["", null]);
});

test("concurrent writes of one name leave one of them whole", async () => {
  const { folder, start } = store();
  const kv = await start();
  const values = Array.from({ length: 12 }, (_, n) => String.fromCharCode(97 + n).repeat(300_000));
  await Promise.all(values.map((value) => kv.put("name", value)));
  assert.ok(values.includes(await kv.get("name")));
  assert.equal(entryFiles(folder).length, 1);
});

test("a deleted name is gone, and deleting it again is no error", async () => {
  const { folder, start } = store();
  const kv = await start();
  await kv.put("name", "value");
  await kv.delete("name");
  await kv.delete("name");
  assert.equal(await kv.get("name"), null);
  assert.deepEqual(entryFiles(folder), []);
});

test("writes and deletions at the same time leave files and index alike", async () => {
  const { folder, start } = store();
  const kv = await start();
  const all = Array.from({ length: 40 }, (_, n) => `name${n}`);
  await Promise.all(
    all.flatMap((name) => [kv.put(name, "one"), kv.delete(name), kv.put(name, "two"), kv.delete(name)]),
  );
  const found = [];
  for (const name of all) if ((await kv.get(name)) !== null) found.push(name);
  assert.deepEqual(names(await kv.list({})).sort(), found.sort());
  assert.equal(entryFiles(folder).length, found.length);
});

test("names are listed by prefix, page by page, while they are deleted", async () => {
  const kv = await store().start();
  const wanted = Array.from({ length: 25 }, (_, n) => `one:${String(n).padStart(2, "0")}`);
  for (const name of [...wanted, "one", "onf:1", "two:1", "one_:1"]) await kv.put(name, "value");
  const found = [];
  let cursor;
  do {
    const page = await kv.list({ prefix: "one:", limit: 10, cursor });
    assert.ok(page.keys.length <= 10);
    found.push(...names(page));
    for (const name of names(page)) await kv.delete(name);
    cursor = page.list_complete ? undefined : page.cursor;
  } while (cursor);
  assert.deepEqual(found, wanted);
  assert.deepEqual(names(await kv.list({})), ["one", "one_:1", "onf:1", "two:1"]);
});

test("an expired value is not found, and its file is deleted without a request for it", async () => {
  const { folder, start } = store();
  const kv = await start();
  await kv.put("stays", "value", { expirationTtl: 3600 });
  await kv.put("never", "value");
  await kv.put("goes", "value", { expirationTtl: 1 });
  await waitFor(() => entryFiles(folder).length === 2, "the expired file to be deleted");
  assert.equal(await kv.get("goes"), null);
  assert.equal(await kv.get("stays"), "value");
  const { keys } = await kv.list({ prefix: "s" });
  assert.ok(keys[0].expiration > Date.now() / 1000);
});

test("a value that expired while nothing ran is deleted after the start", async () => {
  const { folder, start } = store();
  let kv = await start();
  await kv.put("goes", "value", { expirationTtl: 1 });
  await kv.stop({ atOnce: true });
  kv = await start();
  await waitFor(() => entryFiles(folder).length === 0, "the expired file to be deleted");
  assert.deepEqual(names(await kv.list({})), []);
});

test("above the largest size, the values that were not used for longest are deleted", async () => {
  const { folder, start } = store({ maxBytes: 4_500 });
  const kv = await start();
  const value = "x".repeat(1_000);
  for (const name of ["a", "b", "c", "d"]) await kv.put(name, value);
  for (const name of ["d", "a"]) assert.equal(await kv.get(name), value);
  await kv.put("e", value);
  assert.deepEqual(names(await kv.list({})), ["a", "c", "d", "e"]);
  assert.equal(entryFiles(folder).length, 4);
  await kv.put("large", "x".repeat(3_000));
  assert.deepEqual(names(await kv.list({})), ["e", "large"]);
  // One that can never fit is not stored, and nothing else is deleted for it.
  await kv.put("too large", "x".repeat(5_000));
  assert.equal(await kv.get("too large"), null);
  assert.deepEqual(names(await kv.list({})), ["e", "large"]);
});

test("the index follows files that were changed while nothing ran", async () => {
  const { folder, start } = store();
  let kv = await start();
  for (const name of ["a1", "a2", "a3"]) await kv.put(name, `value of ${name}`);
  await kv.stop();
  const file = (name) => entryFiles(folder).find((each) => each.endsWith(name));
  rmSync(file("a1"));
  // Another entry's file under this name.
  renameSync(file("a2"), file("a3"));
  kv = await start();
  assert.deepEqual(names(await kv.list({})), ["a3"]);
  assert.equal(await kv.get("a3"), null);
  await kv.stop();
  // The index may be lost as a whole.
  const again = store();
  kv = await again.start();
  await kv.put("b1", "value", { expirationTtl: 3600 });
  await kv.stop();
  rmSync(path.join(again.folder, "index"), { recursive: true });
  mkdirSync(path.join(again.folder, "index"));
  kv = await again.start();
  assert.deepEqual(names(await kv.list({})), ["b1"]);
  assert.equal(await kv.get("b1"), "value");
});

test("an index that is made anew knows the sizes of all files, and deletes what is too much", async () => {
  const { folder, start } = store();
  const kv = await start();
  const all = Array.from({ length: 250 }, (_, n) => `name ${n}`);
  for (const name of all) await kv.put(name, "x".repeat(100));
  await kv.stop();
  rmSync(path.join(folder, "index"), { recursive: true });
  const size = () =>
    entryFiles(folder).reduce((sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.size ?? 0), 0);
  const maxBytes = Math.floor(size() / 2);
  const again = await store({ folder, maxBytes }).start();
  await again.put("new", "value");
  await waitFor(() => size() <= maxBytes, "the size to be that of the folder");
  const isListed = async () => names(await again.list({})).length === entryFiles(folder).length;
  await waitFor(isListed, "the list to name the files that are left");
  assert.ok(entryFiles(folder).length > 100);
});

test("a value beyond what KV accepts, or a name that no file can have, is refused", async () => {
  const { folder, start } = store();
  const kv = await start();
  await assert.rejects(kv.put("n".repeat(300), "value"), /414/);
  await assert.rejects(kv.put("large", "x".repeat(25 * 2 ** 20 + 1)), /413/);
  assert.deepEqual(entryFiles(folder), []);
});
