// The parameters of the APIs as the official clients' types have them: `node conformance/sdk.mjs` writes sdk-parameters.json,
// and a test compares. A version that brings a new parameter makes the list, and then the cases, visibly incomplete.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const types = (file) => new URL(`../node_modules/${file}`, import.meta.url);
const LIST = new URL('sdk-parameters.json', import.meta.url);

const SOURCES = {
  chat: [['openai/resources/chat/completions/completions.d.ts', 'ChatCompletionCreateParamsBase']],
  completions: [['openai/resources/completions.d.ts', 'CompletionCreateParamsBase']],
  responses: [['openai/resources/responses/responses.d.ts', 'ResponseCreateParamsBase']],
  embeddings: [['openai/resources/embeddings.d.ts', 'EmbeddingCreateParams']],
  messages: [
    ['@anthropic-ai/sdk/resources/messages/messages.d.ts', 'MessageCreateParamsBase'],
    ['@anthropic-ai/sdk/resources/beta/messages/messages.d.ts', 'MessageCreateParamsBase'],
  ],
};

/** { versions, parameters: api → names } of the installed clients. */
export function extract() {
  const parameters = Object.fromEntries(Object.entries(SOURCES).map(([api, sources]) => {
    const names = sources.flatMap(([file, name]) => members(readFileSync(types(file), 'utf8'), name));
    return [api, [...new Set(names)].sort()];
  }));
  const versions = Object.fromEntries(['openai', '@anthropic-ai/sdk']
    .map((name) => [name, JSON.parse(readFileSync(types(`${name}/package.json`), 'utf8')).version]));
  return { versions, parameters };
}

export const committed = () => JSON.parse(readFileSync(LIST, 'utf8'));

/** The names of an interface's own members. */
export function members(source, name) {
  const text = source.replace(/\/\*[\s\S]*?\*\//g, '');
  const start = new RegExp(`interface ${name}\\b[^{]*\\{`).exec(text);
  if (!start) throw new Error(`there is no interface ${name}`);
  const names = [];
  let depth = 0;
  let line = '';
  for (const letter of text.slice(start.index + start[0].length)) {
    if (letter === '}' && depth === 0) break;
    if ('{[('.includes(letter)) depth += 1;
    else if ('}])'.includes(letter)) depth -= 1;
    else if (depth > 0) continue;
    else if (letter === ';') {
      const member = /^\s*['"]?([\w-]+)['"]?\??\s*:/.exec(line);
      if (member) names.push(member[1]);
      line = '';
    } else line += letter;
  }
  return names;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(LIST, `${JSON.stringify(extract(), null, 1)}\n`);
