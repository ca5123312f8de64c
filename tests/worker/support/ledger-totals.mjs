// Many mixed requests to several isolates that restart meanwhile, with one ledger. Its totals must be what the upstream and the
// clients have counted: equal once everything has been sent, never above before.
//
//   node tests/worker/support/ledger-totals.mjs --requests 100000

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { xCacheStatusOf } from "../../../testkit/cache-status.mjs";
import { send } from "../../../testkit/client.mjs";
import { chatChunk, chatCompletion, DONE, sseEvent } from "../../../testkit/fixtures.mjs";
import { freePort, ROOT, responseOf, startProcess, temporaryFolder } from "../../../testkit/processes.mjs";
import { randomIntegers } from "../../../testkit/random.mjs";
import { waitFor } from "../../../testkit/wait.mjs";
import { builtModules, wranglerConfig } from "../../../testkit/worker.mjs";

const ISOLATES = 3;
const CLIENTS = 8;
const ADMIN_TOKEN = "admin-geheim";
const CREDENTIAL = "sk-geheim-credential";
const PROMPT = "geheim-prompt";
const quoted = JSON.stringify;

/** The tokens of a question's response follow from its number. */
const tokensOf = (n) => ({ input: 10 + (n % 89), output: 1 + (n % 13) });

// -------------------------------------------------------------------------------------------------------------- the upstream

/** Each endpoint: its path, the question in its body, and the response with its usage. */
const ENDPOINTS = [
  {
    path: "/proxy/chat/completions",
    body: (text) => ({ model: "gpt-4o", messages: [{ role: "user", content: text }] }),
    response: ({ input, output }, id) =>
      chatCompletion(id, { usage: { prompt_tokens: input, completion_tokens: output, total_tokens: input + output } }),
  },
  {
    path: "/proxy/chat/completions",
    stream: true,
    body: (text) => ({
      model: "gpt-4o-mini",
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content: text }],
    }),
    response: ({ input, output }, id) =>
      sseEvent(chatChunk({ content: id }, "stop")) +
      sseEvent({ ...chatChunk({}), choices: [], usage: { prompt_tokens: input, completion_tokens: output } }) +
      DONE,
  },
  {
    path: "/proxy/responses",
    body: (text) => ({ model: "gpt-5", input: text }),
    response: ({ input, output }, id) => ({
      id,
      object: "response",
      status: "completed",
      output: [{ type: "message", content: [{ type: "output_text", text: id }] }],
      usage: { input_tokens: input, output_tokens: output },
    }),
  },
  {
    path: "/anthropic/v1/messages",
    body: (text) => ({ model: "claude-sonnet-4-20250514", max_tokens: 9, messages: [{ role: "user", content: text }] }),
    response: ({ input, output }, id) => ({
      id,
      type: "message",
      content: [{ type: "text", text: id }],
      stop_reason: "end_turn",
      usage: {
        input_tokens: input - 4,
        cache_read_input_tokens: 3,
        cache_creation_input_tokens: 1,
        output_tokens: output,
      },
    }),
  },
  {
    path: "/proxy/embeddings",
    body: (text) => ({ model: "text-embedding-3-small", input: text }),
    response: ({ input }, id) => ({
      id,
      object: "list",
      data: [{ index: 0, embedding: [0.5] }],
      usage: { prompt_tokens: input, total_tokens: input },
    }),
  },
];
const chargedOf = (endpoint, n) => (endpoint === 4 ? { ...tokensOf(n), output: 0 } : tokensOf(n));

/** An upstream that counts what it charges. Every 7th question is refused by a filter, every 11th fails. */
async function startCountingUpstream() {
  const counted = { requests: 0, input: 0, output: 0 };
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    counted.requests += 1;
    const [, endpoint, n] = /question (\d+) (\d+)/.exec(body) ?? [];
    if (n === undefined)
      return response.setHeader("content-type", "application/json").end('{"object":"list","data":[]}');
    if (Number(n) % 11 === 0) {
      response.writeHead(500, { "content-type": "application/json" });
      return response.end('{"error":{"message":"overloaded"}}');
    }
    const { stream, response: answer } = ENDPOINTS[endpoint];
    const tokens = chargedOf(Number(endpoint), Number(n));
    counted.input += tokens.input;
    counted.output += tokens.output;
    let data = answer(tokens, `answer ${n}`);
    if (Number(n) % 7 === 0 && endpoint === "0") data.choices[0].finish_reason = "content_filter";
    data = typeof data === "string" ? data : JSON.stringify(data);
    response.setHeader("content-type", stream ? "text/event-stream" : "application/json");
    response.end(data);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { counted, origin: `http://127.0.0.1:${port}`, close: () => server.close() };
}

// ------------------------------------------------------------------------------------------------------------ the isolates

/** workerd with several Workers of the same code, each an isolate with a store of its own, and one ledger. */
async function startIsolates(folder, upstream) {
  const config = wranglerConfig();
  const ports = [];
  for (let n = 0; n < ISOLATES; n += 1) ports.push(await freePort());
  const modules = builtModules()
    .map(([name, file]) => {
      const kind = name.endsWith(".wasm") ? "wasm" : "esModule";
      return `(name = ${quoted(name)}, ${kind} = embed ${quoted(path.relative(folder, file))})`;
    })
    .join(", ");
  const variables = {
    OPENAI_BASE_URL: `${upstream}/v1`,
    UPSTREAMS: JSON.stringify({ anthropic: upstream }),
    MAX_RETRIES: "0",
    ADMIN_TOKEN,
    STORE_TIMEOUT_MS: "20000",
  };
  const texts = Object.entries(variables).map(([name, value]) => `(name = ${quoted(name)}, text = ${quoted(value)})`);
  const service = (name, objects, bindings) => `(name = ${quoted(name)}, worker = (
      modules = [${modules}],
      compatibilityDate = ${quoted(config.compatibility_date)},
      compatibilityFlags = [${config.compatibility_flags.map((flag) => quoted(flag)).join(", ")}],
      bindings = [${bindings.join(", ")}],
      durableObjectNamespaces = [${objects}],
      durableObjectStorage = (localDisk = "disk"),
    ))`;
  const object = (name) => `(className = ${quoted(name)}, uniqueKey = ${quoted(name.toLowerCase())}, enableSql = true)`;
  const isolate = (_, n) =>
    service(`isolate${n}`, object("Coalescer").replace("coalescer", `coalescer${n}`), [
      ...texts,
      `(name = "OPENAI_CACHE", kvNamespace = "kv${n}")`,
      '(name = "COALESCER", durableObjectNamespace = "Coalescer")',
      '(name = "LEDGER", durableObjectNamespace = (className = "Ledger", serviceName = "ledger"))',
    ]);
  const kv = (_, n) => `(name = "kv${n}", worker = (
      modules = [(name = "kv-server.js", esModule = embed ${quoted(path.relative(folder, path.join(ROOT, "cli", "kv-server.js")))})],
      compatibilityDate = ${quoted(config.compatibility_date)},
      bindings = [(name = "DISK", service = "entries${n}"), (name = "INDEX", durableObjectNamespace = "EntryIndex")],
      durableObjectNamespaces = [(className = "EntryIndex", uniqueKey = "index${n}", enableSql = true)],
      durableObjectStorage = (localDisk = "disk"),
    ))`;
  const disk = (name) => {
    mkdirSync(path.join(folder, name), { recursive: true });
    return `(name = ${quoted(name)}, disk = (path = ${quoted(path.join(folder, name))}, writable = true))`;
  };
  const file = path.join(folder, "config.capnp");
  writeFileSync(
    file,
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    ${[
      disk("disk"),
      ...ports.map((_, n) => disk(`entries${n}`)),
      ...ports.map(kv),
      ...ports.map(isolate),
      service("ledger", object("Ledger"), []),
      '(name = "internet", network = (allow = ["public", "private", "local"]))',
    ].join(",\n    ")}
  ],
  sockets = [${ports.map((port, n) => `(name = "http${n}", address = "127.0.0.1:${port}", http = (), service = "isolate${n}")`).join(", ")}],
);
`,
  );
  const { default: workerd } = createRequire(import.meta.url)("workerd");
  const child = startProcess(workerd, ["serve", file], { name: "workerd" });
  const origins = ports.map((port) => `http://127.0.0.1:${port}`);
  for (const origin of origins) await child.ready(() => responseOf(`${origin}/healthz`));
  return { origins, child };
}

async function operator(origin, at) {
  const reply = await send(origin, { method: "GET", path: at, headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  assert.equal(reply.status, 200, `${at}: ${reply.body.toString()}`);
  return reply.body.toString();
}

// ----------------------------------------------------------------------------------------------------------------- the load

/** @param {{ requests: number, log?: (text: string) => void }} options */
export async function checkTotals({ requests, log = () => {} }) {
  const { folder, remove } = temporaryFolder();
  const upstream = await startCountingUpstream();
  const next = randomIntegers(requests);
  // Rare enough that questions are repeated, and many enough that all outcomes come.
  const questions = Math.max(20, Math.floor(requests / 8));
  const served = { requests: 0, input: 0, output: 0 };
  let running = await startIsolates(folder, upstream.origin);

  const one = async () => {
    const origin = running.origins[next(ISOLATES)];
    const endpoint = next(ENDPOINTS.length);
    const n = next(questions);
    const kind = next(20);
    const headers = { "content-type": "application/json", authorization: `Bearer ${CREDENTIAL}` };
    if (kind === 0) headers["x-proxy-refresh"] = "true";
    if (kind === 1) headers["x-proxy-namespace"] = `run-${n % 3}`;
    const path = kind === 2 ? "/proxy/models" : ENDPOINTS[endpoint].path;
    const body = JSON.stringify(ENDPOINTS[endpoint].body(`${PROMPT}: question ${endpoint} ${n}`));
    const request = kind === 2 ? { method: "GET", path, headers } : { path, headers, body };
    const reply = await send(origin, request);
    served.requests += 1;
    const status = xCacheStatusOf(reply);
    if (reply.status === 200 && ["HIT", "COALESCED", "STALE", "UPDATING"].includes(status)) {
      const { input, output } = chargedOf(endpoint, n);
      served.input += input;
      served.output += output;
    }
  };
  const load = async (count) => {
    let left = count;
    const client = async () => {
      while (left > 0) {
        left -= 1;
        await one();
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, client));
  };
  const totals = async () => {
    // Each isolate sends what it has before it answers for the ledger.
    for (const origin of running.origins) await operator(origin, "/metrics");
    return JSON.parse(await operator(running.origins[0], "/admin/ledger?by=outcome"));
  };
  const summary = ({ totals: { requests: n, tokens_saved, tokens_spent } }) => ({
    requests: n,
    saved: [tokens_saved.input, tokens_saved.output],
    spent: [tokens_spent.input, tokens_spent.output],
  });
  const truth = () => ({
    requests: served.requests,
    saved: [served.input, served.output],
    spent: [upstream.counted.input, upstream.counted.output],
  });
  const isAtMost = (a, b) =>
    a.requests <= b.requests && [0, 1].every((i) => a.saved[i] <= b.saved[i] && a.spent[i] <= b.spent[i]);

  try {
    const rounds = 4;
    for (let round = 1; round <= rounds; round += 1) {
      const work = load(Math.floor(requests / rounds));
      // Never above, at any moment. What the ledger has is read first.
      const text = await operator(running.origins[next(ISOLATES)], "/admin/ledger?by=outcome");
      await work;
      assert.ok(isAtMost(summary(JSON.parse(text)), truth()), "the ledger was above the truth");
      let read;
      await waitFor(
        async () => {
          read = await totals();
          return quoted(summary(read)) === quoted(truth());
        },
        "the ledger's totals to be those of the upstream and the clients",
        { pollMs: 200 },
      ).catch(() => assert.deepEqual(summary(read), truth(), `round ${round}`));
      const outcomes = read.rows.map(({ outcome, requests: n }) => `${n} ${outcome}`).join(" · ");
      log(`round ${round}: ${quoted(truth())}, ${outcomes}`);
      await running.child.stop();
      if (round < rounds) running = await startIsolates(folder, upstream.origin);
    }
    assertNoSecrets(path.join(folder, "disk"));
    return truth();
  } finally {
    await running.child.stop();
    upstream.close();
    remove();
  }
}

/** Nothing of a credential or prompt is in what the ledger and the index have on disk, not even its hash. */
function assertNoSecrets(folder) {
  const digest = (text) => createHash("sha256").update(text).digest();
  const secrets = [CREDENTIAL, `Bearer ${CREDENTIAL}`, ADMIN_TOKEN, PROMPT];
  const needles = secrets.flatMap((text) => [
    Buffer.from(text),
    digest(text),
    Buffer.from(digest(text).toString("hex")),
    Buffer.from(digest(text).toString("base64")),
  ]);
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
  assert.ok(
    files.some((file) => file.parentPath.endsWith("ledger")),
    "the ledger is on disk",
  );
  for (const file of files) {
    const bytes = readFileSync(path.join(file.parentPath, file.name));
    assert.ok(!needles.some((needle) => bytes.includes(needle)), `${file.name} has a secret`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { requests: { type: "string", default: "100000" } } });
  const began = performance.now();
  await checkTotals({ requests: Number(values.requests), log: console.log });
  console.log(
    `${values.requests} requests in ${Math.round((performance.now() - began) / 1000)} s: all totals are equal`,
  );
}
