import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { input, report } from "./client-input.mjs";

const { base, key, prompts, model, embedding, tool } = input;

async function curl(path, body) {
  const { stdout } = await promisify(execFile)("curl", [
    "-sSN",
    `${base}${path}`,
    "-H",
    `Authorization: Bearer ${key}`,
    "-H",
    "Content-Type: application/json",
    "-d",
    JSON.stringify(body),
    "-w",
    "\n%{http_code}",
  ]);
  const [, text, status] = /^([\s\S]*)\n(\d+)$/.exec(stdout);
  if (status !== "200") throw Object.assign(new Error(text), { status: Number(status) });
  return text;
}
const ask = (content, more) => curl("/chat/completions", { model, messages: [{ role: "user", content }], ...more });

await report({
  plain: () => ask(prompts.plain),
  stream: () => ask(prompts.stream, { stream: true }),
  tools: () => ask(prompts.tools, { tools: [tool] }),
  embeddings: () => curl("/embeddings", { model: embedding, input: prompts.embeddings }),
  error: () => ask(prompts.error),
});
