// `npm run conformance:clients [-- --only openai,langchain,…]`: real clients, unmodified. Each makes the same requests twice through
// the built Worker. The second time there is no upstream call and the results are the same; an error is requested again. With
// `--packed`, they go through the command `reprise`, as installed from its tarball.

import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { execa } from "execa";
import { build } from "../scripts/build.mjs";
import { log, main, modules, node, output, root, UserError } from "../scripts/common.mjs";
import { python } from "../scripts/python.mjs";
import { ScriptedUpstream } from "./engine/upstream.mjs";
import { intoReadme } from "./peers.mjs";
import { startReprise } from "./start-reprise.mjs";

const FOLDER = fileURLToPath(new URL("clients/", import.meta.url));
const RESULTS = new URL("results/clients.json", import.meta.url);
const OPERATIONS = ["plain", "stream", "tools", "embeddings", "error"];

/** `package`: whose version counts. `api`: which API it uses. */
const CLIENTS = [
  { id: "openai-v3", name: "openai-node 3", program: "openai-v3.mjs", package: "openai-v3" },
  { id: "openai-v4", name: "openai-node 4", program: "openai.mjs", args: ["openai-v4"], package: "openai-v4" },
  { id: "openai", name: "openai-node", program: "openai.mjs", args: ["openai"], package: "openai" },
  { id: "openai-python", name: "openai-python", program: "openai_python.py", package: "openai" },
  {
    id: "anthropic",
    name: "Anthropic TypeScript",
    program: "anthropic.mjs",
    package: "@anthropic-ai/sdk",
    api: "messages",
  },
  {
    id: "anthropic-python",
    name: "Anthropic Python",
    program: "anthropic_python.py",
    package: "anthropic",
    api: "messages",
  },
  { id: "vercel", name: "Vercel AI SDK", program: "vercel.mjs", package: "ai" },
  { id: "langchain", name: "LangChain JS", program: "langchain.mjs", package: "@langchain/openai" },
  { id: "langchain-python", name: "LangChain Python", program: "langchain_python.py", package: "langchain-openai" },
  { id: "llamaindex", name: "LlamaIndex", program: "llamaindex.py", package: "llama-index-llms-openai" },
  { id: "litellm", name: "LiteLLM as a client", program: "litellm_client.py", package: "litellm" },
  { id: "curl", name: "curl", program: "curl.mjs", package: "curl" },
];

const TOOL_CALL = {
  chat: {
    set: {
      "choices.0.finish_reason": "tool_calls",
      "choices.0.message.content": null,
      "choices.0.message.tool_calls": [
        { id: "call_1", type: "function", function: { name: "f", arguments: '{"a":1}' } },
      ],
    },
  },
  messages: {
    set: { stop_reason: "tool_use", content: [{ type: "tool_use", id: "toolu_1", name: "f", input: { a: 1 } }] },
  },
};

const TOOL = {
  type: "function",
  function: { name: "f", description: "f", parameters: { type: "object", properties: { a: { type: "integer" } } } },
};

/** Runs a client twice: { operation → "ok", "n/a" or what is wrong }. */
async function runTwice({ program: file, args = [], api = "chat" }, { upstream, base, interpreter }) {
  const scripts = Object.fromEntries(
    OPERATIONS.map((name) => [name, upstream.add(`cf${randomBytes(8).toString("hex")}`)]),
  );
  scripts.tools.response = TOOL_CALL[api];
  scripts.error.response = { status: 400, error: "invalid_request_error" };
  const input = {
    base,
    key: "sk-client",
    model: api === "messages" ? "claude-sonnet-4-5" : "gpt-4o-mini",
    embedding: "text-embedding-3-small",
    prompts: Object.fromEntries(OPERATIONS.map((name) => [name, `What is ${scripts[name].token}?`])),
    tool: TOOL,
  };
  const program = file.endsWith(".py") ? interpreter : node();
  // Proxies and keys of the user's environment would change the requests.
  const { PATH, HOME } = process.env;
  const env = { PATH, HOME, CONFORMANCE: JSON.stringify(input), PYTHONDONTWRITEBYTECODE: "1", PYTHONPATH: FOLDER };
  const runs = [];
  for (let i = 0; i < 2; i += 1) {
    const { stdout } = await execa(program, [path.join(FOLDER, file), ...args], {
      cwd: root,
      env,
      extendEnv: false,
      timeout: 120_000,
    });
    const calls = Object.fromEntries(OPERATIONS.map((name) => [name, scripts[name].calls.length]));
    runs.push({ results: JSON.parse(stdout.trim().split("\n").at(-1)), calls });
  }
  return Object.fromEntries(OPERATIONS.map((name) => [name, verdict(name, runs, scripts[name].token)]));
}

/**
 * @param {string} name
 * @param {any[]} runs
 * @param {string} token
 */
function verdict(name, [first, second], token) {
  const result = first.results[name];
  if (result === undefined) return "n/a";
  const calls = [first.calls[name], second.calls[name] - first.calls[name]];
  const shown = (value) => JSON.stringify(value).slice(0, 200);
  if (!isDeepStrictEqual(result, second.results[name]))
    return `first ${shown(result)}, then ${shown(second.results[name])}`;
  if (name === "error") {
    const isRepeated = result.error === 400 && calls.every((made) => made > 0);
    return isRepeated ? "ok" : `${JSON.stringify(result)}, ${calls[0]} and ${calls[1]} upstream calls`;
  }
  if (result.error !== undefined) return `error ${result.error}`;
  const text = JSON.stringify(result.got);
  const expected = { tools: /a\\*":\s?1/, embeddings: /1,0\.5/ }[name] ?? new RegExp(`${token}-response-1-`);
  if (!expected.test(text)) return `got ${text.slice(0, 200)}`;
  return calls[0] === 1 && calls[1] === 0 ? "ok" : `${calls[0]} and ${calls[1]} upstream calls`;
}

async function versionOf({ id, program, package: name }, interpreter) {
  if (id === "curl") return (await output("curl", ["--version"]))?.split(" ")[1] ?? "?";
  if (!program.endsWith(".py"))
    return JSON.parse(readFileSync(path.join(modules, name, "package.json"), "utf8")).version;
  return output(interpreter, ["-c", `import importlib.metadata as m; print(m.version(${JSON.stringify(name)}))`]);
}

function writeResults(results) {
  const date = new Date().toISOString().slice(0, 10);
  const lines = results.map((result) => `  ${JSON.stringify(result)}`);
  writeFileSync(RESULTS, `${JSON.stringify({ date }).slice(0, -1)}, "clients": [\n${lines.join(",\n")}\n]}\n`);
  const mark = (text) => ({ ok: "✓", "n/a": "–" })[text] ?? "✗";
  const rows = results.map(
    (result) => `| ${result.name} ${result.version} | ${OPERATIONS.map((name) => mark(result[name])).join(" | ")} |`,
  );
  const head = [`| client (${date}) | ${OPERATIONS.join(" | ")} |`, `|---|${OPERATIONS.map(() => "---|").join("")}`];
  intoReadme("clients", [...head, ...rows].join("\n"));
}

await main(import.meta, async () => {
  const { values } = parseArgs({ options: { only: { type: "string" }, packed: { type: "boolean" } } });
  const only = values.only?.split(",");
  const selected = CLIENTS.filter(({ id }) => !only || only.includes(id));
  if (selected.length === 0) throw new UserError(`Clients are ${CLIENTS.map(({ id }) => id).join(", ")}.`);
  await build();
  const interpreter = await python(path.join(FOLDER, "requirements.txt"), "the Python clients (about a minute)");
  const upstream = await ScriptedUpstream.start();
  const worker = await startReprise(upstream, { packed: values.packed });
  const results = [];
  for (const client of selected) {
    const { id, name } = client;
    const version = await versionOf(client, interpreter);
    const outcomes = await runTwice(client, { upstream, base: `${worker.origin}/v1`, interpreter }).catch((error) => {
      const why = `the program failed: ${(error.stderr || error.message).slice(-300)}`;
      return Object.fromEntries(OPERATIONS.map((operation) => [operation, why]));
    });
    results.push({ id, name, version, ...outcomes });
    const cells = OPERATIONS.map((operation) => `${operation} ${outcomes[operation]}`.padEnd(14));
    console.log(`${`${name} ${version}`.padEnd(32)} ${cells.join(" ")}`);
  }
  await worker.stop();
  await upstream.close();
  if (!only && !values.packed) writeResults(results);
  const isWrong = (result, operation) => !["ok", "n/a"].includes(result[operation]);
  const wrong = results.flatMap((result) =>
    OPERATIONS.filter((name) => isWrong(result, name)).map((name) => `${result.id} ${name}`),
  );
  if (wrong.length > 0) throw new UserError(`Wrong: ${wrong.join(", ")}`);
  log("Every client got the same results twice, the second time from the cache.");
});
