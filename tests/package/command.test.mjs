// The packed command as a user installs it: without Rust, and without the repository.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import { createServer } from "node:net";
import path from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";
import { execa } from "execa";
import { COMPATIBILITY_DATE, COMPATIBILITY_FLAGS } from "../../cli/workerd-config.js";
import { findProgram } from "../../scripts/common.mjs";
import { page } from "../../scripts/dashboard.mjs";
import { send } from "../../testkit/client.mjs";
import { entryFiles, filesBelow, install, isRunning, runCommand, startCommand } from "../../testkit/command.mjs";
import { chatEvent, DONE, EVENT_STREAM } from "../../testkit/fixtures.mjs";
import { ROOT, temporaryFolder } from "../../testkit/processes.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { deferred, waitFor, withTimeout } from "../../testkit/wait.mjs";
import { MODULES, workerdVersion, wranglerConfig } from "../../testkit/worker.mjs";
import { killOften } from "./support/kills.mjs";

const ADMIN_TOKEN = "admin-of-the-test";

const upstream = await startUpstream();
after(() => upstream.close());
const { folder, packed } = await install();
const dir = path.join(folder, ".reprise");
const upstreamArgs = ["--upstream", `${upstream.origin}/v1`];
const started = [];

beforeEach(() => {
  upstream.reset();
  upstream.otherwise((call) => {
    const message = { role: "assistant", content: `é: ${contentOf(call.body)}` };
    return { json: { id: `answer-${call.n}`, choices: [{ index: 0, message, finish_reason: "stop" }] } };
  });
});
afterEach(async () => {
  for (const command of started.splice(0)) if (isRunning(command.pid)) await command.stop("SIGTERM");
  rmSync(dir, { recursive: true, force: true });
});

/** @param {Parameters<typeof startCommand>[1]} [options] */
async function start({ args = [], ...options } = {}) {
  const command = await startCommand(folder, { args: [...upstreamArgs, ...args], ...options });
  started.push(command);
  return command;
}

const request = (content, headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-client", ...headers },
  body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content }] }),
});
const contentOf = (body) => JSON.parse(body).messages[0].content;
const cacheStatus = (reply) => reply.headers["x-cache-status"];

/** Requests the responses to `contents`, and waits until each is stored. */
async function fill(command, contents, headers) {
  for (const content of contents) {
    assert.equal(cacheStatus(await command.settled(request(content, headers))), "MISS", content);
  }
}

test("the package holds the Worker and the command, and depends on workerd alone", () => {
  const manifest = JSON.parse(readFileSync(path.join(folder, "node_modules", "reprise", "package.json"), "utf8"));
  assert.deepEqual(manifest.dependencies, { workerd: workerdVersion() });
  assert.equal(manifest.engines.node, ">=18.17");
  assert.equal(manifest.scripts, undefined);
  const names = packed.files.map((file) => file.path);
  for (const name of [...MODULES.map((module) => `build/${module}`), "cli/main.js", "cli/kv-server.js"]) {
    assert.ok(names.includes(name), name);
  }
  assert.ok(packed.size < 2_000_000);
});

test("the command runs the Worker as wrangler does", () => {
  const config = wranglerConfig();
  assert.equal(COMPATIBILITY_DATE, config.compatibility_date);
  assert.deepEqual(COMPATIBILITY_FLAGS, config.compatibility_flags);
});

test("a response is stored in the folder and served after a restart, byte for byte", async () => {
  const command = await start({ npx: true });
  const first = await command.settled(request("hello"));
  assert.equal(first.status, 200);
  assert.equal(cacheStatus(first), "MISS");
  const second = await command.settled(request("hello"));
  assert.equal(cacheStatus(second), "HIT");
  assert.deepEqual(second.body, first.body);
  assert.deepEqual(await command.stop(), { code: 0, signal: null });
  assert.deepEqual(command.lines.at(-1), {
    event: "summary",
    requests: 2,
    errors: 0,
    outcomes: { MISS: 1, HIT: 1 },
    saved_tokens: 0,
  });
  assert.equal(entryFiles(dir).length, 1);

  const again = await start();
  const third = await again.settled(request("hello"));
  assert.equal(cacheStatus(third), "HIT");
  assert.doesNotMatch(String(third.headers["cache-status"]), /memory/);
  assert.deepEqual(third.body, first.body);
  assert.equal(upstream.count, 1);
  const [listening] = again.lines;
  assert.equal(listening.event, "listening");
  assert.equal(listening.entries, 1);
  assert.equal(listening.base_url, `${again.url}/proxy`);
});

test("workerd ends with a command that is killed, and the folder can be used at once", async () => {
  const command = await start();
  await fill(command, ["kept"]);
  await command.kill();
  const again = await start();
  assert.equal(cacheStatus(await again.settled(request("kept"))), "HIT");
});

test("the command ends with a workerd that is killed", async () => {
  const command = await start();
  process.kill(command.workerd, "SIGKILL");
  assert.deepEqual(await command.ended, { code: 1, signal: null });
  assert.match(command.stderr, /workerd ended \(SIGKILL\)/);
});

test("kills at any moment lose no stored response and damage none", async () => {
  const { acknowledged, sent } = await killOften({ folder, rounds: 8 });
  assert.ok(acknowledged > 0 && acknowledged < sent);
});

test("the folder holds one file for each entry, and none for a request", async () => {
  const command = await start();
  const databases = () => filesBelow(path.join(dir, "objects")).filter((file) => file.endsWith(".sqlite"));
  await fill(command, ["first"]);
  const before = databases();
  await fill(command, ["second", "third", "fourth"]);
  assert.deepEqual(databases(), before);
  assert.equal(entryFiles(dir).length, 4);
});

test("parallel requests for samples fill different slots, and a restart keeps them", async () => {
  upstream.otherwise((call) => {
    const message = { role: "assistant", content: `sample ${call.n}` };
    return { json: { id: `answer-${call.n}`, choices: [{ index: 0, message, finish_reason: "stop" }] } };
  });
  const ask = (command) => send(command.url, request("Hi", { "x-proxy-samples": "3" }));
  const inParallel = async (command) =>
    new Set((await Promise.all([1, 2, 3].map(() => ask(command)))).map(({ body }) => body.toString()));
  const first = await start();
  const samples = await inParallel(first);
  assert.equal(samples.size, 3);
  await waitFor(async () => cacheStatus(await ask(first)) === "HIT", "a stored sample");
  await waitFor(() => entryFiles(dir).length === 3, "three entries");
  await first.stop("SIGTERM");
  const second = await start();
  for (const body of await inParallel(second)) assert.ok(samples.has(body));
  assert.equal(upstream.count, 3);
});

test("concurrent requests share one upstream request", async () => {
  const command = await start();
  const { promise: held, resolve: release } = deferred();
  upstream.otherwise({
    headers: EVENT_STREAM,
    chunks: [chatEvent({ content: "shared" }), chatEvent({}, "stop"), DONE],
    afterChunk: () => held,
  });
  const { path: at, headers, body } = request("shared");
  const streamed = JSON.stringify({ ...JSON.parse(body), stream: true });
  const join = async () => {
    const response = await fetch(command.url + at, { method: "POST", headers, body: streamed });
    const reader = response.body.getReader();
    return { reader, first: await reader.read() };
  };
  // The first chunk of the one upstream response reaches all three before there is a second.
  const clients = await withTimeout(Promise.all([join(), join(), join()]), "a chunk for every client");
  release();
  for (const { reader } of clients) while (!(await reader.read()).done);
  assert.equal(upstream.count, 1);
});

test("a second command on the folder is refused with the name of the first", async () => {
  const command = await start();
  const second = await runCommand(folder, ["--port", "0"]);
  assert.equal(second.exitCode, 1);
  assert.match(second.stderr, new RegExp(`in use by the process ${command.pid}, which serves ${command.url}`));
  assert.equal(second.stdout, "");
  assert.equal((await send(command.url, { method: "GET", path: "/healthz" })).status, 200);
});

test("the lock of a dead process is taken, also if another process has its number now", async () => {
  for (const holder of [
    { pid: 2 ** 22 + 1, started: null },
    { pid: process.pid, started: "another time" },
  ]) {
    mkdirSync(dir, { recursive: true });
    writeFileSync(path.join(dir, "lock"), JSON.stringify(holder));
    const command = await start();
    assert.equal(JSON.parse(readFileSync(path.join(dir, "lock"), "utf8")).pid, command.pid);
    await command.stop();
    assert.ok(!filesBelow(dir).includes(path.join(dir, "lock")));
  }
});

test("a folder of a newer version is refused and not changed", async () => {
  mkdirSync(dir);
  writeFileSync(path.join(dir, "format"), "2\n");
  const { exitCode, stderr } = await runCommand(folder, ["--port", "0"]);
  assert.equal(exitCode, 1);
  assert.match(stderr, /has format 2/);
  assert.deepEqual(filesBelow(dir), [path.join(dir, "format")]);
});

test("without a writable folder, requests are served and not stored", async () => {
  const file = path.join(folder, "a-file");
  writeFileSync(file, "");
  const command = await start({ args: ["--dir", path.join(file, "x")] });
  assert.match(command.stderr, /cannot be written \(ENOTDIR\): responses are not stored/);
  assert.equal(command.lines[0].dir, null);
  const reply = await command.settled(request("unstored"));
  assert.equal(reply.status, 200);
  assert.equal((await command.settled(request("unstored again"))).status, 200);
});

test("an entry that is damaged on disk is never served", async () => {
  const command = await start();
  await fill(command, ["damaged"]);
  await command.stop();
  const [file] = entryFiles(dir);
  const bytes = readFileSync(file);
  for (const damaged of [bytes.subarray(0, bytes.length - 3), bytes.subarray(0, 5), Buffer.alloc(0)]) {
    writeFileSync(file, damaged);
    const again = await start();
    const reply = await again.settled({
      ...request("damaged"),
      headers: { ...request("").headers, "cache-control": "only-if-cached" },
    });
    assert.equal(reply.status, 504);
    await again.stop();
  }
});

test("an expired entry is not served, and its file is deleted", async () => {
  const command = await start({ args: ["--var", "CACHE_TTL:3600"] });
  await fill(command, ["expires", "stays"]);
  await command.stop();
  const [file, other] = entryFiles(dir);
  const text = readFileSync(file, "latin1");
  const { expires } = JSON.parse(text.slice(0, text.indexOf("\n")));
  assert.ok(expires > Date.now());
  writeFileSync(file, text.replace(`"expires":${expires}`, `"expires":${Date.now() - 1}`), "latin1");
  const again = await start();
  const outcomes = [];
  for (const content of ["expires", "stays"]) {
    const headers = { "cache-control": "only-if-cached" };
    outcomes.push((await again.settled(request(content, headers))).status);
  }
  assert.deepEqual(outcomes.sort(), [200, 504]);
  await waitFor(() => !entryFiles(dir).includes(file), "the expired file to be deleted");
  assert.deepEqual(entryFiles(dir), [other]);
});

test("what a killed process had begun to write is removed", async () => {
  mkdirSync(path.join(dir, "entries", "ab"), { recursive: true });
  const partial = path.join(dir, "entries", "ab", ".partial");
  writeFileSync(partial, "half");
  await start();
  assert.ok(!filesBelow(dir).includes(partial));
});

test("a namespace is deleted with its files, and no other", async () => {
  const env = { REPRISE_ADMIN_TOKEN: ADMIN_TOKEN };
  const command = await start({ env });
  const numbers = Array.from({ length: 12 }, (_, n) => `entry ${n}`);
  await fill(command, numbers, { "x-proxy-namespace": "one" });
  await fill(command, ["other"], { "x-proxy-namespace": "two" });
  await command.stop();
  // The list of names outlasts the process.
  const again = await start({ env });
  assert.equal(entryFiles(dir).length, 13);
  let deleted = 0;
  let cursor = "";
  do {
    const reply = await send(again.url, {
      method: "DELETE",
      path: `/admin/cache?namespace=one${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
      headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
    });
    assert.equal(reply.status, 200, reply.body.toString());
    const result = JSON.parse(reply.body.toString());
    deleted += result.deleted;
    cursor = result.cursor;
  } while (cursor);
  assert.equal(deleted, 12);
  assert.equal(entryFiles(dir).length, 1);
  assert.equal(cacheStatus(await send(again.url, request("other", { "x-proxy-namespace": "two" }))), "HIT");
  assert.equal(cacheStatus(await send(again.url, request("entry 3", { "x-proxy-namespace": "one" }))), "MISS");
});

test("--open shows the browser the dashboard with a token that is valid", {
  skip: process.platform !== "linux",
}, async () => {
  const { folder: programs } = temporaryFolder();
  const seen = path.join(programs, "seen");
  const opener = path.join(programs, "xdg-open");
  writeFileSync(opener, `#!/bin/sh\nprintf %s "$1" > ${seen}.tmp && mv ${seen}.tmp ${seen}\n`, { mode: 0o755 });
  const command = await start({ args: ["--open"], env: { PATH: `${programs}:${process.env.PATH}` } });
  await waitFor(() => existsSync(seen), "the browser to be started");
  const html = readFileSync(new URL(readFileSync(seen, "utf8")), "utf8");
  const [, token] = /url=http:\/\/127\.0\.0\.1:\d+\/dashboard#token=([\w-]+)"/.exec(html);
  const shown = await send(command.url, { method: "GET", path: "/dashboard" });
  assert.equal(shown.status, 200);
  assert.equal(shown.body.toString(), (await page()).html);
  const headers = { authorization: `Bearer ${token}` };
  assert.equal((await send(command.url, { method: "GET", path: "/metrics", headers })).status, 200);
  assert.ok(!JSON.stringify(command.lines).includes(token));
});

test("secrets reach the Worker, and no file and no output holds them", async () => {
  const secrets = {
    OPENAI_API_KEY: "sk-operator-1a2b3c",
    PROXY_TOKENS: "token-4d5e6f",
    CACHE_ENCRYPTION_KEY: "seal-7a8b9c",
  };
  const env = { TMPDIR: path.join(folder, "temporary"), REPRISE_OPENAI_API_KEY: secrets.OPENAI_API_KEY };
  mkdirSync(env.TMPDIR, { recursive: true });
  const file = path.join(folder, "variables.env");
  writeFileSync(file, `PROXY_TOKENS="${secrets.PROXY_TOKENS}"\n`);
  const args = ["--env-file", file, "--var", `CACHE_ENCRYPTION_KEY:${secrets.CACHE_ENCRYPTION_KEY}`];
  const command = await start({ args, env });
  const reply = await command.settled(request("secret", { authorization: `Bearer ${secrets.PROXY_TOKENS}` }));
  assert.equal(reply.status, 200, reply.body.toString());
  assert.equal(upstream.last.headers.authorization, `Bearer ${secrets.OPENAI_API_KEY}`);
  const holdsNoSecret = () => {
    const files = [...filesBelow(dir), ...filesBelow(env.TMPDIR)].map((each) => readFileSync(each));
    assert.ok(files.length > 3);
    for (const text of [...files, command.stdout + command.stderr]) {
      for (const secret of Object.values(secrets)) assert.ok(!text.includes(secret));
    }
  };
  holdsNoSecret();
  await command.stop();
  holdsNoSecret();
  // The entry itself is sealed.
  assert.ok(!entryFiles(dir).some((each) => readFileSync(each).includes("assistant")));
  rmSync(env.TMPDIR, { recursive: true });
});

test("an upstream is trusted if NODE_EXTRA_CA_CERTS has its certificate authority", {
  skip: !findProgram("openssl"),
}, async () => {
  const file = (name) => path.join(folder, name);
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", file("key.pem")];
  execFileSync("openssl", ["req", "-x509", ...key, ...subject, "-out", file("cert.pem")], { stdio: "ignore" });
  const pem = { key: readFileSync(file("key.pem")), cert: readFileSync(file("cert.pem")) };
  const body = JSON.stringify({ choices: [{ index: 0, message: { content: "tls" }, finish_reason: "stop" }] });
  const server = https.createServer(pem, (_, response) =>
    response.setHeader("content-type", "application/json").end(body),
  );
  await once(server.listen(0, "localhost"), "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const args = ["--var", `OPENAI_BASE_URL:https://localhost:${port}/v1`, "--var", "MAX_RETRIES:0"];
  const statuses = [];
  for (const env of [{ NODE_EXTRA_CA_CERTS: "" }, { NODE_EXTRA_CA_CERTS: file("cert.pem") }]) {
    const command = await startCommand(folder, { args, env });
    started.push(command);
    statuses.push((await send(command.url, request("tls"))).status);
    await command.stop();
  }
  server.close();
  assert.deepEqual(statuses, [502, 200]);
});

test("a variable of the command line wins over the file, and the file over the environment", async () => {
  const file = path.join(folder, "order.env");
  writeFileSync(file, "# a comment\n\nOVERRIDE_MODEL=from-the-file\nCACHE_TTL=nonsense\n");
  const env = { REPRISE_OVERRIDE_MODEL: "from-the-environment" };
  const command = await start({ args: ["--env-file", file, "--var", "CACHE_TTL:60"], env });
  assert.equal((await command.settled(request("model"))).status, 200);
  assert.equal(JSON.parse(upstream.last.body).model, "from-the-file");
});

test("wrong usage ends with status 2 and says why", async () => {
  /** @type {[string[], RegExp][]} */
  const cases = [
    [["--port", "70000"], /--port expects a number/],
    [["--nonsense"], /--nonsense/],
    [["serv"], /no command "serv"\. There is serve, demo/],
    [["serve", "more"], /takes no argument, and got "more"/],
    [["serve", "--", "more"], /runs no program/],
    [["--", "npm", "test"], /runs no program/],
    [["--max-size", "big"], /--max-size expects a size/],
    [["--var", "CACHE_TTL"], /NAME:VALUE/],
    [["--var", "OPENAI_CACHE:x"], /name of a binding/],
    [["--upstream", "ftp://x"], /--upstream expects/],
    [["--env-file", "missing.env"], /missing.env cannot be read/],
  ];
  for (const [args, message] of cases) {
    const { exitCode, stdout, stderr } = await runCommand(folder, args);
    assert.deepEqual([exitCode, stdout], [2, ""], args.join(" "));
    assert.match(stderr, message);
  }
  const help = await runCommand(folder, ["--help"]);
  assert.equal(help.exitCode, 0);
  assert.match(help.stdout, /--env-file/);
  const { version } = JSON.parse(readFileSync(path.join(folder, "node_modules", "reprise", "package.json"), "utf8"));
  assert.equal((await runCommand(folder, ["--version"])).stdout, version);
});

test("the demo sends every request twice, and the second time it is a hit", async () => {
  const { exitCode, stdout, stderr } = await runCommand(folder, ["demo"]);
  assert.deepEqual([exitCode, stderr], [0, ""]);
  assert.equal(stdout.match(/ 1 {4}200 {5}MISS /g).length, 4);
  assert.equal(stdout.match(/ 2 {4}200 {5}HIT /g).length, 4);
  assert.match(stdout, /Every repeat had the same bytes: 8 requests, 4 upstream calls\./);
  assert.ok(!existsSync(dir));
});

test("a port that is taken is named", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const { exitCode, stderr } = await runCommand(folder, ["--port", String(port)]);
  await new Promise((resolve) => server.close(resolve));
  assert.equal(exitCode, 1);
  assert.match(stderr, new RegExp(`Another program listens on 127.0.0.1:${port}`));
});

test("requests are served after the reader of the output has ended", async () => {
  const command = await start();
  command.closeOutput();
  for (const content of ["unread", "unread too", "unread"]) {
    assert.equal((await send(command.url, request(content))).status, 200);
  }
  assert.deepEqual(await command.stop(), { code: 0, signal: null });
});

test("`npm start` without Rust names the packed command", async () => {
  const env = { HOME: folder, CARGO_HOME: folder, PATH: path.dirname(process.execPath) };
  const script = path.join(ROOT, "scripts", "start.mjs");
  const { exitCode, stdout, stderr } = await execa(process.execPath, [script], {
    env,
    extendEnv: false,
    reject: false,
  });
  assert.equal(exitCode, 1);
  assert.equal(stdout, "");
  assert.match(
    stderr,
    /^\[reprise\] Rust is missing\. .* or use the packed command, which needs none: docs\/getting-started\.md\.$/,
  );
});

test("a workerd that is missing, or variables that are too long, are explained", async () => {
  const { folder: other, remove } = temporaryFolder();
  cpSync(path.join(folder, "node_modules", "reprise"), path.join(other, "node_modules", "reprise"), {
    recursive: true,
  });
  const program = path.join(other, "node_modules", "reprise", "cli", "main.js");
  const missing = await execa(process.execPath, [program, "--port", "0"], { cwd: other, reject: false });
  assert.equal(missing.exitCode, 1);
  assert.match(missing.stderr, /^reprise: workerd is not installed for this machine: .*\nInstall the package again/);
  remove();
  const file = path.join(folder, "long.env");
  writeFileSync(file, Array.from({ length: 80 }, (_, n) => `LONG_${n}=${"x".repeat(100_000)}\n`).join(""));
  const long = await runCommand(folder, ["--port", "0", "--env-file", file]);
  assert.deepEqual([long.exitCode, long.stderr], [1, "reprise: All variables together are too long for this system."]);
});

test("--quiet writes no line for a request, and counts it", async () => {
  const command = await start({ args: ["--quiet"] });
  assert.equal((await send(command.url, request("quiet"))).status, 200);
  await command.stop();
  assert.deepEqual(
    command.lines.map((line) => line.event),
    ["listening", "summary"],
  );
  assert.equal(command.lines[1].requests, 1);
});
