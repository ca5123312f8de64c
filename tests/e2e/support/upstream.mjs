// A scripted upstream: it says what a test tells it to say and remembers everything it was asked.

import { createHash } from "node:crypto";
import http from "node:http";
import { within } from "./wait.mjs";

const WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

export async function startUpstream() {
  const upstream = new Upstream();
  await upstream.listen();
  return upstream;
}

// An answer is `{ status, headers, body, cut, hold }` (all optional) or a function `(call, response)` that
// answers by hand. `cut: n` breaks the connection after n bytes of the body; `hold` is a promise to wait for
// before the first byte.
export class Upstream {
  calls = []; // every request, in order of arrival: { method, url, headers, rawHeaders, body, whole, left }
  #answers = [];
  #fallback;
  #server;
  #port = 0;
  #sockets = new Set();
  #arrivals = new Set();

  get origin() {
    return `http://127.0.0.1:${this.#port}`;
  }

  // What to say to every call for which nothing is queued: an answer, or a function from a call to an answer.
  otherwise(answer) {
    this.#fallback = answer;
  }

  // What to say to the next calls, one each.
  next(...answers) {
    this.#answers.push(...answers);
  }

  // Forget calls and answers, for the next test.
  reset() {
    this.calls = [];
    this.#answers = [];
    this.#fallback = undefined;
  }

  get last() {
    return this.calls.at(-1);
  }

  // Resolves when the upstream has been asked n times since the last reset.
  async asked(n) {
    while (this.calls.length < n) {
      await within(new Promise((resolve) => this.#arrivals.add(resolve)), `call ${n} to the upstream`);
    }
  }

  async listen() {
    this.#server = http.createServer({ maxHeaderSize: 1 << 20 }, (req, res) => this.#onRequest(req, res));
    this.#server.on("upgrade", (req, socket) => this.#onUpgrade(req, socket));
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.setMaxListeners(0); // each call on a connection that is kept waits for its end
      socket.on("close", () => this.#sockets.delete(socket));
    });
    await new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(this.#port, "127.0.0.1", resolve);
    });
    this.#port = this.#server.address().port;
    this.#server.unref(); // a test file that fails before its first test must end, not wait for calls
  }

  // From here on nobody can connect; `listen()` opens the same port again.
  async refuse() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  close() {
    return this.refuse();
  }

  #record(req) {
    const call = {
      method: req.method,
      url: req.url,
      headers: req.headers,
      rawHeaders: req.rawHeaders,
      left: new Promise((resolve) => req.socket.once("close", resolve)), // the caller hung up
    };
    this.calls.push(call);
    for (const arrived of this.#arrivals) arrived();
    this.#arrivals.clear();
    return call;
  }

  #onRequest(req, res) {
    const call = this.#record(req);
    const answer = this.#answers.shift() ?? this.#fallback ?? { json: { id: `answer-${this.calls.length}` } };
    res.sendDate = false; // the wire carries what the test wrote, and no more than HTTP needs
    res.on("error", () => {}); // a caller that leaves early is no error of the upstream's
    const chunks = [];
    req.on("data", (chunk) => chunks.push(chunk));
    req.on("error", () => {});
    call.whole = new Promise((resolve) => {
      req.on("end", () => {
        call.body = Buffer.concat(chunks);
        resolve(call.body);
      });
    });
    this.#answer(answer, call, res).catch((error) => {
      console.error("the scripted upstream failed:", error);
      res.destroy();
    });
  }

  async #answer(answer, call, res) {
    if (typeof answer === "function" && answer.length >= 2) return answer(call, res);
    await call.whole;
    const said = typeof answer === "function" ? await answer(call) : answer;
    await said.hold;
    const body = answerBody(said);
    const headers = { "content-type": "application/json", ...said.headers };
    if (said.cut !== undefined) {
      res.writeHead(said.status ?? 200, withoutNulls(headers));
      // Without the flush the break could overtake the head, and then nothing would have been cut.
      res.flushHeaders();
      await new Promise((resolve) => res.write(body.subarray(0, said.cut), resolve));
      res.destroy();
      return;
    }
    const status = said.status ?? 200;
    if (status !== 204 && status !== 304 && headers["content-length"] === undefined) {
      headers["content-length"] = String(body.length);
    }
    res.writeHead(status, withoutNulls(headers));
    res.end(body);
  }

  // A WebSocket that gives back every message it gets: enough to show that frames pass both ways.
  #onUpgrade(req, socket) {
    this.#record(req);
    socket.on("error", () => {});
    const accept = createHash("sha1").update(req.headers["sec-websocket-key"] + WEBSOCKET_GUID).digest("base64");
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    let pending = Buffer.alloc(0);
    socket.on("data", (data) => {
      pending = Buffer.concat([pending, data]);
      for (let frame; (frame = takeFrame(pending)) !== null; pending = pending.subarray(frame.size)) {
        socket.write(Buffer.concat([Buffer.from([0x80 | frame.opcode, frame.payload.length]), frame.payload]));
        if (frame.opcode === 8) socket.end();
      }
    });
  }
}

// One short client frame from the front of `data`, or null while it is incomplete. Client frames are masked.
function takeFrame(data) {
  if (data.length < 6) return null;
  const length = data[1] & 0x7f;
  if (length > 125) throw new Error("this echo knows short frames only");
  const size = 6 + length;
  if (data.length < size) return null;
  const mask = data.subarray(2, 6);
  const payload = Buffer.from(data.subarray(6, size).map((byte, i) => byte ^ mask[i % 4]));
  return { opcode: data[0] & 0x0f, payload, size };
}

// A streamed answer under the test's command: hand `.answer` to the upstream, then send, end or break.
export function commandedStream({ status = 200, headers = { "content-type": "text/event-stream" } } = {}) {
  let response;
  let closed; // nobody confirms a write to a caller that has hung up
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  const done = (start, what) => within(Promise.race([new Promise(start), closed]), what);
  return {
    begun, // resolves with the call once the upstream has been asked and its head has been sent
    answer: async (call, res) => {
      response = res;
      closed = new Promise((resolve) => res.once("close", resolve));
      await call.whole;
      res.writeHead(status, headers);
      res.flushHeaders();
      begin(call);
    },
    send: (chunk) => done((sent) => response.write(chunk, sent), "a piece to be sent"),
    end: () => done((sent) => response.end(sent), "the end to be sent"),
    cut: () => response.destroy(),
  };
}

// The bytes of an answer or request written as `json`, `body`, `base64` or `repeat`; undefined for none.
export function bytesOf(said) {
  if (said.json !== undefined) return Buffer.from(JSON.stringify(said.json));
  if (said.body !== undefined) return Buffer.from(said.body);
  if (said.base64 !== undefined) return Buffer.from(said.base64, "base64");
  if (said.repeat !== undefined) {
    const { head = "", unit = "", times = 0, tail = "" } = said.repeat;
    return Buffer.from(head + unit.repeat(times) + tail);
  }
  return undefined;
}

function answerBody(said) {
  return bytesOf(said) ?? Buffer.alloc(0);
}

function withoutNulls(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== null));
}
