// A real Redis behind Upstash's REST API (https://upstash.com/docs/redis/features/restapi): a command is a JSON array posted to
// `/`, several are an array of those posted to `/pipeline`.

import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { Redis } from "ioredis";
import { findProgram } from "../scripts/common.mjs";
import { parseJson } from "./json.mjs";
import { onFreePort, startProcess } from "./processes.mjs";
import { Upstream } from "./upstream.mjs";
import { withTimeout } from "./wait.mjs";

/** "10 MB" is all that Upstash documents: the smaller of its two meanings. */
export const MAX_REQUEST_BYTES = 10_000_000;

/** An empty Redis of its own, with its bridge. */
export async function startRedis() {
  if (!findProgram("redis-server")) {
    throw new Error("redis-server is missing: install the package redis-server (elsewhere: redis), or run `npm test`");
  }
  const { server, commands } = await onFreePort(startServer);
  const bridge = new UpstashBridge(server, commands);
  await bridge.listen();
  return bridge;
}

// redis-server on this port, with nothing on disk.
async function startServer(port) {
  const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const server = startProcess("redis-server", args, { cwd: tmpdir() });
  await server.ready((log) => log.includes("Ready to accept connections"));
  const commands = new Redis({
    host: "127.0.0.1",
    port,
    lazyConnect: true,
    maxRetriesPerRequest: 0,
    enableReadyCheck: false,
  });
  commands.on("error", () => {}); // the command that fails says so
  await withTimeout(commands.connect(), "a connection to Redis");
  commands.stream.unref(); // a test file that fails before its first test must end
  return { server, commands };
}

/**
 * The bridge is a scripted upstream whose default response is Redis's: it records its calls, and a test may replace responses
 * with `next` and `otherwise` until the next `reset`.
 */
class UpstashBridge extends Upstream {
  token = randomBytes(24).toString("base64");
  #server;
  #commands;

  constructor(server, commands) {
    super();
    this.#server = server;
    this.#commands = commands;
    this.reset();
  }

  reset() {
    super.reset();
    this.otherwise((call) => this.respond(call));
  }

  async close() {
    await super.close();
    this.#commands.disconnect();
    await this.#server.stop();
  }

  /** A command sent past the bridge. Texts come back as Buffers; an error of Redis's is thrown. */
  command(name, ...parameters) {
    return withTimeout(this.#commands.callBuffer(name, ...parameters), `Redis to respond to ${name}`);
  }

  /** Upstash's response to a call. */
  async respond({ method, url, headers, body }) {
    const { pathname, searchParams } = new URL(url, "http://bridge");
    const token = /^Bearer (.*)$/.exec(headers.authorization ?? "")?.[1] ?? searchParams.get("_token");
    if (!["HEAD", "GET", "POST", "PUT"].includes(method)) return { status: 405, json: { error: "Method Not Allowed" } };
    if (token !== this.token) return { status: 401, json: { error: "Unauthorized" } };
    // Upstash has more: commands as paths, transactions, subscriptions. The Worker uses none of those.
    const isSupported = method === "POST" && ["/", "/pipeline"].includes(pathname);
    if (!isSupported) return badRequest("the bridge supports POST / and /pipeline");
    if (body.length > MAX_REQUEST_BYTES) return badRequest("max request size exceeded");
    const encode = headers["upstash-encoding"] === "base64" ? toBase64 : toText;
    const request = parseJson(body.toString());
    if (pathname === "/") {
      const result = await this.#run(request, encode);
      return { status: result.error === undefined ? 200 : 400, json: result };
    }
    if (!Array.isArray(request)) return badRequest("a pipeline is an array of commands");
    return { json: await Promise.all(request.map((command) => this.#run(command, encode))) };
  }

  async #run(command, encode) {
    const isParameter = (value) => typeof value === "string" || typeof value === "number";
    const isCommand = Array.isArray(command) && command.length > 0 && command.every(isParameter);
    if (!isCommand) return { error: "ERR failed to parse command" };
    try {
      const reply = await this.command(...command);
      // Upstash encodes everything but "OK", which is what commands such as SET return.
      return { result: isOk(reply) ? "OK" : toJson(reply, encode) };
    } catch (error) {
      return { error: error.message };
    }
  }
}

const badRequest = (reason) => ({ status: 400, json: { error: `ERR ${reason}` } });
const isOk = (reply) => Buffer.isBuffer(reply) && reply.equals(Buffer.from("OK"));
const toText = (bytes) => bytes.toString();
const toBase64 = (bytes) => bytes.toString("base64");

function toJson(reply, encode) {
  if (Array.isArray(reply)) return reply.map((item) => toJson(item, encode));
  if (reply instanceof Error) return reply.message;
  return Buffer.isBuffer(reply) ? encode(reply) : reply;
}

/**
 * The database in the shape of a KV namespace, so that tests read both stores in the same way. Values that are put have no
 * expiry in Redis: aged entries must be judged by their own.
 */
export function asNamespace(redis) {
  return {
    async list() {
      return { keys: (await redis.command("KEYS", "*")).map((name) => ({ name: name.toString() })) };
    },
    async getWithMetadata(name) {
      return { value: Buffer.from((await redis.command("GET", name)).toString(), "base64"), metadata: null };
    },
    put: (name, bytes) => redis.command("SET", name, bytes.toString("base64")),
    delete: (name) => redis.command("DEL", name),
  };
}
