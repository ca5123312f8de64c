// Who asks: wrk where many requests count, Node's own client where the time of one does.
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { Stop } from '../scripts/lib.mjs';
import { temporary } from './processes.mjs';

export const CONNECTIONS = 8;
const { folder } = temporary();

const HEADERS = {
  'content-type': 'application/json',
  authorization: 'Bearer sk-bench-0123456789abcdef0123456789abcdef',
  accept: 'application/json',
  'user-agent': 'OpenAI/JS 7.55.0',
};

/** Where a question has room for a number, and for white space that means nothing. */
const NUMBER = '000000000000';
const SPACE = '\t\t';

/** A chat question of about `size` bytes. */
export function question(size, more = {}) {
  const turn = 'The quick brown fox jumps over the lazy dog, and then it says: "Über alle Wipfel\\n" is not ASCII. ';
  const messages = [{ role: 'system', content: `You are the helpful assistant ${NUMBER}.` }];
  const body = () => JSON.stringify({ model: 'gpt-4o-mini', ...more, temperature: 0, messages });
  const share = Math.max(200, Math.min(4_000, Math.floor(size / 2)));
  for (let left = size - body().length - 40; left > 0; left -= Math.min(share, left) + 40) {
    const content = turn.repeat(Math.ceil(share / turn.length)).slice(0, Math.min(share, left));
    messages.push({ role: messages.length % 2 ? 'user' : 'assistant', content });
  }
  return body().replace('{', `{${SPACE}`);
}

let numbers = 0;

/** The same question about another number: one that has not been asked before. */
export function another(body) {
  numbers += 1;
  return body.replace(NUMBER, String(numbers).padStart(NUMBER.length, '0'));
}

const WAYS = {
  same: () => 'wrk.body = body',
  // Each about another number.
  distinct: (first) => `local before, after = body:match("^(.-)${NUMBER}(.*)$")
local n = ${first}
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, before .. string.format("%0${NUMBER.length}d", n) .. after)
end`,
  // Each the same question with other white space in it.
  spelled: (first) => `local after = body:sub(${2 + SPACE.length})
local n = ${first}
local spaces = {}
for digit = 0, 9 do spaces[tostring(digit)] = string.rep(" ", digit) .. "\\t" end
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, "{" .. string.format("%09d", n):gsub("%d", spaces) .. after)
end`,
};

/** Asks for `seconds`, over `connections`, in one of the ways. Gives how many answers came. */
export async function load(url, body, { seconds, connections = CONNECTIONS, way = 'same' }) {
  const [script, file] = [path.join(folder, 'load.lua'), path.join(folder, 'body')];
  writeFileSync(file, body);
  const headers = Object.entries(HEADERS).map(([name, value]) => `wrk.headers["${name}"] = "${value}"\n`).join('');
  writeFileSync(script, `wrk.method = "POST"\n${headers}local body = io.open("${file}", "rb"):read("*a")\n${WAYS[way](numbers)}\n`);
  numbers += 10_000_000; // no load comes that far
  const said = await new Promise((resolve, reject) => {
    const child = execFile('wrk', ['-t1', `-c${connections}`, '-d600s', '-s', script, url], { timeout: Math.ceil(seconds * 1000) + 60_000 },
      (error, stdout, stderr) => (error ? reject(new Stop(`wrk failed: ${stderr || error.message}`)) : resolve(stdout)));
    // Its own durations are whole seconds; interrupted, it says what it has done so far.
    const timer = setTimeout(() => child.kill('SIGINT'), seconds * 1000);
    const kill = () => child.kill('SIGKILL');
    process.once('exit', kill);
    child.once('exit', () => {
      clearTimeout(timer);
      process.off('exit', kill);
    });
  });
  const count = Number(/(\d+) requests in/.exec(said)?.[1]);
  if (!(count > 0) || /Non-2xx|Socket errors/.test(said)) throw new Stop(`Not every answer from ${url} was one:\n${said}`);
  return count;
}

const agent = new http.Agent({ keepAlive: true });

/** Asks once: the answer, and the milliseconds to its first byte and to its end. */
export function ask(url, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const request = http.request(url, { method: 'POST', agent, headers: { ...HEADERS, ...headers }, timeout: 30_000 }, (response) => {
      const pieces = [];
      let first;
      response.on('data', (piece) => {
        first ??= performance.now() - began;
        pieces.push(piece);
      });
      response.once('error', (error) => reject(new Stop(`${url} broke off: ${error.message}`)));
      response.once('end', () => resolve({
        first,
        whole: performance.now() - began,
        status: response.statusCode,
        cache: response.headers['cache-status'] ?? response.headers['x-cache-status'] ?? '',
        body: Buffer.concat(pieces).toString(),
      }));
    });
    request.once('timeout', () => request.destroy(new Error('no answer within 30 s')));
    request.once('error', (error) => reject(new Stop(`${url}: ${error.message}`)));
    request.end(body);
  });
}

/** The same, and the answer must be a good one. */
export async function asked(url, body, headers, tries = 5) {
  let answer;
  try {
    answer = await ask(url, body, headers);
  } catch (error) {
    // Floors that do not read a long question may answer and hang up while it is being written.
    if (!/EPIPE|ECONNRESET/.test(error.message) || tries === 1) throw error;
    return asked(url, body, headers, tries - 1);
  }
  if (answer.status !== 200) throw new Stop(`${url} answered ${answer.status}: ${answer.body.slice(0, 500)}`);
  return answer;
}

/** Where a worker is asked. */
export const chat = ({ url }) => `${url}/proxy/chat/completions`;
