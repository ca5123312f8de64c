// `npm run conformance:clients [-- openai,langchain,…]`: real clients, unmodified, each asking the same things twice through
// the built worker. The second time nobody is asked and the result is the same; an error is asked for again.

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isDeepStrictEqual } from 'node:util';
import { build } from '../scripts/build.mjs';
import { main, modules, node, output, root, say, Stop } from '../scripts/lib.mjs';
import { python } from '../scripts/python.mjs';
import { Upstream } from './engine/upstream.mjs';
import { ownWorker } from './own.mjs';
import { intoReadme } from './peers.mjs';

const FOLDER = fileURLToPath(new URL('clients/', import.meta.url));
const OPERATIONS = ['plain', 'stream', 'tools', 'embeddings', 'error'];

// id, name, program, its arguments, the package whose version counts, the API that it asks.
const CLIENTS = [
  ['openai-v3', 'openai-node 3', 'openai-v3.mjs', [], 'openai-v3', 'chat'],
  ['openai-v4', 'openai-node 4', 'openai.mjs', ['openai-v4'], 'openai-v4', 'chat'],
  ['openai', 'openai-node', 'openai.mjs', ['openai'], 'openai', 'chat'],
  ['openai-python', 'openai-python', 'openai_python.py', [], 'openai', 'chat'],
  ['anthropic', 'Anthropic TypeScript', 'anthropic.mjs', [], '@anthropic-ai/sdk', 'messages'],
  ['anthropic-python', 'Anthropic Python', 'anthropic_python.py', [], 'anthropic', 'messages'],
  ['vercel', 'Vercel AI SDK', 'vercel.mjs', [], 'ai', 'chat'],
  ['langchain', 'LangChain JS', 'langchain.mjs', [], '@langchain/openai', 'chat'],
  ['langchain-python', 'LangChain Python', 'langchain_python.py', [], 'langchain-openai', 'chat'],
  ['llamaindex', 'LlamaIndex', 'llamaindex.py', [], 'llama-index-llms-openai', 'chat'],
  ['litellm', 'LiteLLM as a client', 'litellm_client.py', [], 'litellm', 'chat'],
  ['curl', 'curl', 'curl.mjs', [], 'curl', 'chat'],
];

const TOOL_CALL = {
  chat: { set: { 'choices.0.finish_reason': 'tool_calls', 'choices.0.message.content': null,
    'choices.0.message.tool_calls': [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{"a":1}' } }] } },
  messages: { set: { stop_reason: 'tool_use', content: [{ type: 'tool_use', id: 'toolu_1', name: 'f', input: { a: 1 } }] } },
};

/** Runs one client twice: { operation → 'ok' or what is wrong }. */
async function twice([, , file, args, , api], { upstream, base, interpreter }) {
  const scripts = Object.fromEntries(OPERATIONS.map((name) => [name, upstream.script(`cf${randomBytes(8).toString('hex')}`)]));
  scripts.tools.answer = TOOL_CALL[api];
  scripts.error.answer = { status: 400, error: 'invalid_request_error' };
  const told = {
    base, key: 'sk-client', model: api === 'messages' ? 'claude-sonnet-4-5' : 'gpt-4o-mini', embedding: 'text-embedding-3-small',
    prompts: Object.fromEntries(OPERATIONS.map((name) => [name, `What is ${scripts[name].token}?`])),
    tool: { type: 'function', function: { name: 'f', description: 'f', parameters: { type: 'object', properties: { a: { type: 'integer' } } } } },
  };
  const program = file.endsWith('.py') ? interpreter : node();
  // Proxies and keys of the user's environment would change what is asked of whom.
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, CONFORMANCE: JSON.stringify(told), PYTHONDONTWRITEBYTECODE: '1', PYTHONPATH: FOLDER };
  const runs = [];
  const calls = [];
  for (let i = 0; i < 2; i += 1) {
    const { stdout } = await promisify(execFile)(program, [path.join(FOLDER, file), ...args], { cwd: root, env, timeout: 120_000, maxBuffer: 1 << 24 });
    runs.push(JSON.parse(stdout.trim().split('\n').at(-1)));
    calls.push(Object.fromEntries(OPERATIONS.map((name) => [name, scripts[name].calls.length])));
  }
  const [first, second] = runs;
  return Object.fromEntries(OPERATIONS.map((name) => [name, verdict(name)]));

  function verdict(name) {
    if (first[name] === undefined) return 'n/a';
    const [one, all] = [calls[0][name], calls[1][name]];
    if (!isDeepStrictEqual(first[name], second[name])) return `first ${JSON.stringify(first[name]).slice(0, 200)}, then ${JSON.stringify(second[name]).slice(0, 200)}`;
    if (name === 'error') return first[name].error === 400 && all > one && one > 0 ? 'ok' : `${JSON.stringify(first[name])}, asked ${one} and ${all - one} times`;
    if (first[name].error !== undefined) return `error ${first[name].error}`;
    const said = JSON.stringify(first[name].got);
    const right = name === 'tools' ? /a\\*":\s?1/.test(said) : name === 'embeddings' ? /1,0\.5/.test(said) : said.includes(`${scripts[name].token}-answer-1-`);
    if (!right) return `got ${said.slice(0, 200)}`;
    return one === 1 && all === 1 ? 'ok' : `asked the upstream ${one} and ${all - one} times`;
  }
}

async function versionOf([id, , file, , name], interpreter) {
  if (id === 'curl') return (await output('curl', ['--version']))?.split(' ')[1] ?? '?';
  if (!file.endsWith('.py')) return JSON.parse(readFileSync(path.join(modules, name, 'package.json'), 'utf8')).version;
  return output(interpreter, ['-c', `import importlib.metadata as m; print(m.version(${JSON.stringify(name)}))`]);
}

await main(import.meta, async () => {
  const only = process.argv[2]?.split(',');
  const chosen = CLIENTS.filter(([id]) => !only || only.includes(id));
  if (chosen.length === 0) throw new Stop(`Clients are ${CLIENTS.map(([id]) => id).join(', ')}.`);
  await build();
  const interpreter = await python(path.join(FOLDER, 'requirements.txt'), 'the Python clients (about a minute)');
  const upstream = await new Upstream().listen();
  const worker = await ownWorker(upstream);
  const results = [];
  for (const client of chosen) {
    const [id, name] = client;
    const version = await versionOf(client, interpreter);
    let matrix;
    try {
      matrix = await twice(client, { upstream, base: `${worker.origin}/v1`, interpreter });
    } catch (error) {
      matrix = Object.fromEntries(OPERATIONS.map((operation) => [operation, `the program failed: ${(error.stderr || error.message).slice(-300)}`]));
    }
    results.push({ id, name, version, ...matrix });
    console.log(`${`${name} ${version}`.padEnd(32)} ${OPERATIONS.map((operation) => `${operation} ${matrix[operation]}`.padEnd(14)).join(' ')}`);
  }
  await worker.stop();
  await upstream.close();
  if (!only) {
    const date = new Date().toISOString().slice(0, 10);
    writeFileSync(new URL('results/clients.json', import.meta.url), `${JSON.stringify({ date }).slice(0, -1)}, "clients": [\n${results.map((one) => `  ${JSON.stringify(one)}`).join(',\n')}\n]}\n`);
    const rows = results.map((one) => `| ${one.name} ${one.version} | ${OPERATIONS.map((operation) => (one[operation] === 'ok' ? '✓' : one[operation] === 'n/a' ? '–' : '✗')).join(' | ')} |`);
    intoReadme('clients', [`| client (${date}) | ${OPERATIONS.join(' | ')} |`, `|---|${OPERATIONS.map(() => '---|').join('')}`, ...rows].join('\n'));
  }
  const wrong = results.flatMap((one) => OPERATIONS.filter((operation) => !['ok', 'n/a'].includes(one[operation])).map((operation) => `${one.id} ${operation}`));
  if (wrong.length > 0) throw new Stop(`Not as it should be: ${wrong.join(', ')}`);
  say('Every client got the same answers twice, the second time from the cache.');
});
