// The parameters of the APIs in the types of the official clients. `node conformance/sdk.mjs` writes sdk-parameters.json, and a test
// compares. If a new version has a new parameter, the test fails until the list and the cases have it.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const LIST = new URL("sdk-parameters.json", import.meta.url);

/** API → files of types and the interfaces in them. */
const SOURCES = {
  chat: [["openai/resources/chat/completions/completions.d.ts", "ChatCompletionCreateParamsBase"]],
  completions: [["openai/resources/completions.d.ts", "CompletionCreateParamsBase"]],
  responses: [["openai/resources/responses/responses.d.ts", "ResponseCreateParamsBase"]],
  embeddings: [["openai/resources/embeddings.d.ts", "EmbeddingCreateParams"]],
  messages: [
    ["@anthropic-ai/sdk/resources/messages/messages.d.ts", "MessageCreateParamsBase"],
    ["@anthropic-ai/sdk/resources/beta/messages/messages.d.ts", "MessageCreateParamsBase"],
  ],
};

const readModule = (file) => readFileSync(new URL(`../node_modules/${file}`, import.meta.url), "utf8");
const versionOf = (name) => JSON.parse(readModule(`${name}/package.json`)).version;

/** { versions, parameters: API → names } of the installed clients. */
export function extract() {
  const parameters = Object.fromEntries(
    Object.entries(SOURCES).map(([api, sources]) => {
      const names = sources.flatMap(([file, name]) => members(readModule(file), name));
      return [api, [...new Set(names)].sort()];
    }),
  );
  return { versions: { openai: versionOf("openai"), "@anthropic-ai/sdk": versionOf("@anthropic-ai/sdk") }, parameters };
}

export const committed = () => JSON.parse(readFileSync(LIST, "utf8"));

/** The names of an interface's own members. */
export function members(source, name) {
  const text = source.replace(/\/\*[\s\S]*?\*\//g, "");
  const start = new RegExp(`interface ${name}\\b[^{]*\\{`).exec(text);
  if (!start) throw new Error(`there is no interface ${name}`);
  const names = [];
  let depth = 0;
  let line = "";
  for (const letter of text.slice(start.index + start[0].length)) {
    if (letter === "}" && depth === 0) break;
    if ("{[(".includes(letter)) depth += 1;
    else if ("}])".includes(letter)) depth -= 1;
    else if (depth > 0) continue;
    else if (letter === ";") {
      const member = /^\s*['"]?([\w-]+)['"]?\??\s*:/.exec(line);
      if (member) names.push(member[1]);
      line = "";
    } else line += letter;
  }
  return names;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(LIST, `${JSON.stringify(extract(), null, 1)}\n`);
