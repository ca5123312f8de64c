// A real Redis, and before it Upstash's REST API (https://upstash.com/docs/redis/features/restapi): a command is a JSON
// array posted to `/`, several are an array of those posted to `/pipeline`.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import net from "node:net";
import { tmpdir } from "node:os";
import { freePort } from "../../../scripts/lib.mjs";
import { Upstream } from "./upstream.mjs";
import { within } from "./wait.mjs";

// "10 MB" is all that Upstash says: the smaller of its two meanings.
export const MAX_REQUEST = 10_000_000;

// A Redis of its own, empty, with its bridge.
export async function startRedis() {
  const server = await startServer();
  const bridge = new Bridge(server);
  await bridge.listen();
  return bridge;
}

// As an HTTP server it is the scripted upstream: it remembers its calls, and a test may put other answers in the place
// of Redis's with `next` and `otherwise` until the next `reset`.
class Bridge extends Upstream {
  token = randomBytes(24).toString("base64");
  #server;

  constructor(server) {
    super();
    this.#server = server;
    this.reset();
  }

  reset() {
    super.reset();
    this.otherwise((call) => this.serve(call));
  }

  async close() {
    await super.close();
    await this.#server.stop();
  }

  // A command past the bridge: values come back as Buffers, Redis's own words as strings; an error is thrown.
  async say(...command) {
    const reply = await this.#server.say(command);
    if (reply instanceof Refusal) throw new Error(reply.message);
    return reply;
  }

  // What Upstash says to a call.
  async serve({ method, url, headers, body }) {
    const { pathname, searchParams } = new URL(url, "http://bridge");
    const token = /^Bearer (.*)$/.exec(headers.authorization ?? "")?.[1] ?? searchParams.get("_token");
    if (!["HEAD", "GET", "POST", "PUT"].includes(method)) return { status: 405, json: { error: "Method Not Allowed" } };
    if (token !== this.token) return { status: 401, json: { error: "Unauthorized" } };
    // Upstash knows more: the command as a path, transactions, subscriptions. Nothing here asks for those.
    const known = method === "POST" && ["/", "/pipeline"].includes(pathname);
    if (!known) return refused("the bridge knows POST / and /pipeline");
    if (body.length > MAX_REQUEST) return refused("max request size exceeded");
    const encode = headers["upstash-encoding"] === "base64" ? base64 : text;
    const said = parsed(body);
    if (pathname === "/") {
      const answer = await this.#answer(said, encode);
      return { status: answer.error === undefined ? 200 : 400, json: answer };
    }
    if (!Array.isArray(said)) return refused("a pipeline is an array of commands");
    return { json: await Promise.all(said.map((command) => this.#answer(command, encode))) };
  }

  async #answer(command, encode) {
    const argument = (value) => typeof value === "string" || typeof value === "number";
    const sound = Array.isArray(command) && command.length > 0 && command.every(argument);
    if (!sound) return { error: "ERR failed to parse command" };
    const reply = await this.#server.say(command);
    return reply instanceof Refusal ? { error: reply.message } : { result: asJson(reply, encode) };
  }
}

const refused = (why) => ({ status: 400, json: { error: `ERR ${why}` } });
const text = (string) => string.toString();
// "All strings in the response will be base64 encoded, except for the OK response": the client would take a stored "OK"
// inside a list for base64, so it is Redis's own word that is spared.
const base64 = (string) => (string === "OK" ? "OK" : Buffer.from(string).toString("base64"));

function asJson(reply, encode) {
  if (Array.isArray(reply)) return reply.map((item) => asJson(item, encode));
  if (reply instanceof Refusal) return reply.message;
  return typeof reply === "string" || Buffer.isBuffer(reply) ? encode(reply) : reply;
}

function parsed(body) {
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}

async function startServer() {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await serverAt(await freePort());
    } catch (error) {
      // Between the choice of a port and its use anybody may take it.
      if (attempt === 5 || !error.message.includes("Address already in use")) throw error;
    }
  }
}

// redis-server on this port, keeping nothing on disk.
async function serverAt(port) {
  const child = spawn("redis-server", ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], {
    cwd: tmpdir(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const kill = () => child.kill();
  process.once("exit", kill);
  const gone = new Promise((resolve) => child.once("close", resolve));
  let output = "";
  const ready = new Promise((resolve, reject) => {
    const missing = "redis-server does not start: install the package redis-server (elsewhere: redis), or run `npm test`";
    child.once("error", (error) => reject(new Error(missing, { cause: error })));
    gone.then(() => reject(new Error(`redis-server has ended:\n${output}`)));
    child.stdout.on("data", (chunk) => {
      output += chunk;
      if (output.includes("Ready to accept connections")) resolve();
    });
  });
  await within(ready, "redis-server to start");
  // A test file that fails before its first test must end, not wait for Redis.
  child.unref();
  child.stdout.unref();
  const connection = await connect(port);
  return {
    say: (command) => connection.say(command),
    async stop() {
      connection.close();
      kill();
      process.off("exit", kill);
      await within(gone, "redis-server to end");
    },
  };
}

class Refusal {
  constructor(message) {
    this.message = message;
  }
}

// Redis's own protocol (RESP2) over one connection. Replies come in the order of the commands.
async function connect(port) {
  const socket = net.connect(port, "127.0.0.1");
  socket.unref();
  const waiting = [];
  const replies = readReplies();
  replies.next();
  socket.on("data", (chunk) => {
    for (let reply = replies.next(chunk).value; reply !== undefined; reply = replies.next().value) {
      waiting.shift().resolve(reply.value);
    }
  });
  socket.on("error", () => {}); // "close" follows
  socket.on("close", () => waiting.splice(0).forEach(({ reject }) => reject(new Error("Redis has hung up"))));
  await within(new Promise((resolve) => socket.once("connect", resolve)), "a connection to Redis");
  return {
    say(command) {
      const parts = command.map((part) => (Buffer.isBuffer(part) ? part : Buffer.from(String(part))));
      const bulks = parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n")]);
      const replied = new Promise((resolve, reject) => waiting.push({ resolve, reject }));
      socket.write(Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...bulks]));
      return within(replied, `Redis to answer ${command[0]}`);
    },
    close: () => socket.destroy(),
  };
}

// Takes pieces of the stream, gives `{ value }` for each reply that is complete and undefined when it needs more.
function* readReplies() {
  let buffer = Buffer.alloc(0);

  function* take(length) {
    const pieces = [buffer];
    // Joined once, not with every piece: values may be large.
    for (let have = buffer.length; have < length; ) {
      const piece = (yield) ?? Buffer.alloc(0);
      pieces.push(piece);
      have += piece.length;
    }
    const all = Buffer.concat(pieces);
    buffer = all.subarray(length);
    return all.subarray(0, length);
  }

  function* line() {
    let end;
    while ((end = buffer.indexOf("\r\n")) < 0) buffer = Buffer.concat([buffer, (yield) ?? Buffer.alloc(0)]);
    return (yield* take(end + 2)).subarray(0, end);
  }

  function* reply() {
    const head = yield* line();
    const [kind, rest] = [head.toString("latin1", 0, 1), head.subarray(1)];
    if (kind === "+") return rest.toString();
    if (kind === "-") return new Refusal(rest.toString());
    if (kind === ":") return Number(rest);
    const length = Number(rest);
    if (length < 0) return null;
    if (kind === "$") return (yield* take(length + 2)).subarray(0, length);
    const items = [];
    while (items.length < length) items.push(yield* reply());
    return items;
  }

  for (;;) {
    const value = yield* reply();
    const piece = yield { value };
    if (piece !== undefined) buffer = Buffer.concat([buffer, piece]);
  }
}

// The database as the tests see KV, so that they look into both in the same way: names and values as bytes. What is put
// has no expiry in Redis: aged entries are there to be judged by their own.
export function asNamespace(redis) {
  return {
    async list() {
      return { keys: (await redis.say("KEYS", "*")).map((name) => ({ name: name.toString() })) };
    },
    async getWithMetadata(name) {
      return { value: Buffer.from((await redis.say("GET", name)).toString(), "base64"), metadata: null };
    },
    put: (name, bytes) => redis.say("SET", name, bytes.toString("base64")),
    delete: (name) => redis.say("DEL", name),
  };
}
