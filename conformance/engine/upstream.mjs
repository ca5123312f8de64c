// The upstream of the cases, on the testkit's. It knows by the token in a call which case the call belongs to, so that cases can run
// side by side, and marks every response with the call's number.

import { startUpstream } from "../../testkit/upstream.mjs";
import { describeResponse } from "./responses.mjs";

const TOKEN = /cf[0-9a-f]{16}/;
const UNKNOWN = { status: 404, json: { error: { message: "no case makes this call", type: "invalid_request_error" } } };

/** One case's part of the upstream: its calls, and the response to the next ones. */
export class Script {
  calls = []; // { n, cacheKey, method, url, headers, body, sent, ended, receivedInTime }
  response = {};
  cacheKey; // of the current request
  received = ""; // the text that the client has received so far
  #waiting = new Set();

  constructor(token, defaultResponse = {}) {
    this.token = token;
    this.defaultResponse = defaultResponse;
  }

  changed() {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  /** Resolves to true when `condition` holds, to false after `limitMs`. */
  async until(condition, limitMs) {
    const end = Date.now() + limitMs;
    while (!condition()) {
      const left = end - Date.now();
      if (left <= 0) return false;
      let timer;
      const changed = new Promise((wake) => this.#waiting.add(wake));
      const timeout = new Promise((wake) => (timer = setTimeout(wake, left)));
      await Promise.race([changed, timeout]);
      clearTimeout(timer);
    }
    return true;
  }
}

export class ScriptedUpstream {
  #upstream;
  #scripts = new Map();
  #exclusive; // the script of every call, whatever token is in it

  static async start(port = 0) {
    const scripted = new ScriptedUpstream();
    scripted.#upstream = await startUpstream({ port, record: false });
    scripted.#upstream.otherwise((call) => scripted.#respond(call));
    return scripted;
  }

  get origin() {
    return this.#upstream.origin;
  }

  get port() {
    return this.#upstream.port;
  }

  close() {
    return this.#upstream.close();
  }

  /** Opens the same port again. */
  listen() {
    return this.#upstream.listen();
  }

  /**
   * A new script. With `exclusive` it gets every call, until it is removed.
   *
   * @param {string} token
   * @param {{ defaultResponse?: Record<string, any>, exclusive?: boolean }} [options]
   */
  add(token, { defaultResponse, exclusive = false } = {}) {
    const script = new Script(token, defaultResponse);
    this.#scripts.set(token, script);
    if (exclusive) this.#exclusive = script;
    return script;
  }

  remove(token) {
    if (this.#exclusive === this.#scripts.get(token)) this.#exclusive = undefined;
    this.#scripts.delete(token);
  }

  #respond(call) {
    const token = TOKEN.exec(`${call.url} ${call.body.toString("latin1")}`)?.[0];
    const script = this.#exclusive ?? this.#scripts.get(token);
    if (!script) return UNKNOWN;
    call.n = script.calls.length + 1;
    call.cacheKey = script.cacheKey;
    script.calls.push(call);
    call.responded.then(() => {
      call.ended = true;
      script.changed();
    });
    script.changed();
    return describeResponse(script.response, script, call);
  }
}
