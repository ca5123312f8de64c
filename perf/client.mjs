// The clients of the measurements: wrk where many requests count, Node's own client where the time of one does.

import { writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { execa } from "execa";
import { Stop as UserError } from "../scripts/lib.mjs";
import { temporaryFolder } from "../testkit/processes.mjs";

export const CONNECTIONS = 8;
const TIMEOUT_MS = 30_000;
const ATTEMPTS = 5;
// A server that does not read a request may respond early and close the connection. Longer bodies are written in chunks of this
// size, so that such a response is seen before the connection is closed.
const CHUNK_BYTES = 64_000;
const { folder } = temporaryFolder("reprise-perf-");

const HEADERS = {
  "content-type": "application/json",
  authorization: "Bearer sk-bench-0123456789abcdef0123456789abcdef",
  accept: "application/json",
  "user-agent": "OpenAI/JS 7.55.0",
};

/** Room for a number and for insignificant white space in a request body. */
const NUMBER = "000000000000";
const SPACE = "\t\t";

/** The body of a chat request of about `size` bytes. */
export function chatBody(size, fields = {}) {
  const text = 'The quick brown fox jumps over the lazy dog, and then it says: "Über alle Wipfel\\n" is not ASCII. ';
  const messages = [{ role: "system", content: `You are the helpful assistant ${NUMBER}.` }];
  const body = () => JSON.stringify({ model: "gpt-4o-mini", ...fields, temperature: 0, messages });
  const share = Math.max(200, Math.min(4_000, Math.floor(size / 2)));
  for (let left = size - body().length - 40; left > 0; left -= Math.min(share, left) + 40) {
    const content = text.repeat(Math.ceil(share / text.length)).slice(0, Math.min(share, left));
    messages.push({ role: messages.length % 2 ? "user" : "assistant", content });
  }
  return body().replace("{", `{${SPACE}`);
}

let numbers = 0;

/** The same body with a number that has not been sent before. */
export function distinct(body) {
  numbers += 1;
  return body.replace(NUMBER, String(numbers).padStart(NUMBER.length, "0"));
}

const VARIATIONS = {
  same: () => "wrk.body = body",
  // Each with another number.
  distinct: (first) => `local before, after = body:match("^(.-)${NUMBER}(.*)$")
local n = ${first}
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, before .. string.format("%0${NUMBER.length}d", n) .. after)
end`,
  // Each with other insignificant white space.
  spelled: (first) => `local after = body:sub(${2 + SPACE.length})
local n = ${first}
local spaces = {}
for digit = 0, 9 do spaces[tostring(digit)] = string.rep(" ", digit) .. "\\t" end
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, "{" .. string.format("%09d", n):gsub("%d", spaces) .. after)
end`,
};

/**
 * Sends requests for `seconds`, over `connections`, in one of the variations. Returns the number of responses. With
 * `mayCloseEarly` connections that the server closes during a request are no failure.
 */
export async function load(
  url,
  body,
  { seconds, connections = CONNECTIONS, variation = "same", mayCloseEarly = false },
) {
  const [script, file] = [path.join(folder, "load.lua"), path.join(folder, "body")];
  writeFileSync(file, body);
  const headers = Object.entries(HEADERS)
    .map(([name, value]) => `wrk.headers["${name}"] = "${value}"\n`)
    .join("");
  const read = `local body = io.open("${file}", "rb"):read("*a")\n`;
  writeFileSync(script, `wrk.method = "POST"\n${headers}${read}${VARIATIONS[variation](numbers)}\n`);
  numbers += 10_000_000; // more than any load sends
  // wrk's own durations are whole seconds. When interrupted, it reports what it has done so far.
  const wrk = execa("wrk", ["-t1", `-c${connections}`, "-d600s", "-s", script, url], {
    reject: false,
    timeout: Math.ceil(seconds * 1000) + 60_000,
  });
  const timer = setTimeout(() => wrk.kill("SIGINT"), seconds * 1000);
  const { stdout, stderr, failed, exitCode, shortMessage } = await wrk;
  clearTimeout(timer);
  if (failed && exitCode !== 0) throw new UserError(`wrk failed: ${stderr || shortMessage}`);
  const count = Number(/(\d+) requests in/.exec(stdout)?.[1]);
  const failures = mayCloseEarly ? /Non-2xx|timeout [1-9]/ : /Non-2xx|Socket errors/;
  if (!(count > 0) || failures.test(stdout))
    throw new UserError(`Not every response from ${url} was right:\n${stdout}`);
  return count;
}

const keepAlive = new http.Agent({ keepAlive: true });

/** Sends one request: the response, and the milliseconds to its first byte and to its end. */
export function sendOnce(url, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const bytes = Buffer.from(body);
    // A connection that may be closed during the request is not used again.
    const agent = bytes.length > CHUNK_BYTES ? false : keepAlive;
    const sent = { ...HEADERS, "content-length": bytes.length, ...headers };
    const options = { method: "POST", agent, headers: sent, timeout: TIMEOUT_MS };
    let responded = false;
    const request = http.request(url, options, (response) => {
      responded = true;
      const chunks = [];
      let first;
      response.on("data", (chunk) => {
        first ??= performance.now() - began;
        chunks.push(chunk);
      });
      response.once("error", (error) => reject(new UserError(`${url}: the response was truncated: ${error.message}`)));
      response.once("end", () => {
        if (!request.writableEnded) request.destroy();
        resolve({
          first,
          whole: performance.now() - began,
          status: response.statusCode,
          cache: response.headers["cache-status"] ?? response.headers["x-cache-status"] ?? "",
          body: Buffer.concat(chunks).toString(),
        });
      });
    });
    request.once("timeout", () => request.destroy(new Error(`no response within ${TIMEOUT_MS / 1000} s`)));
    // Once there is a response, a failure to send the rest of the request does not matter.
    request.on("error", (error) => {
      if (!responded) reject(Object.assign(new UserError(`${url}: ${error.message}`), { cause: error }));
    });
    const write = (at) => {
      if (responded || request.destroyed) return;
      const chunk = bytes.subarray(at, at + CHUNK_BYTES);
      if (at + chunk.length === bytes.length) request.end(chunk);
      else request.write(chunk, () => setImmediate(write, at + chunk.length));
    };
    write(0);
  });
}

/** The same, and the response must have the status 200. */
export async function send(url, body, headers) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const response = await sendOnce(url, body, headers);
      if (response.status !== 200)
        throw new UserError(`${url} responded with ${response.status}: ${response.body.slice(0, 500)}`);
      return response;
    } catch (error) {
      // The connection may be reset before an early response is read.
      if (attempt === ATTEMPTS || !["EPIPE", "ECONNRESET"].includes(error.cause?.code)) throw error;
    }
  }
}

/** The chat endpoint of a Worker. */
export const chat = ({ url }) => `${url}/proxy/chat/completions`;
