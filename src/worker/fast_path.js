// The short way for requests that this isolate has seen before, byte for byte: no JSON is parsed, and no decision made here.
// What a repeated request asks for is a plan of the long way's, and so is the answer's head; see src/flow/repeat.rs.

import { headersOf } from "./platform/interop.js";
import { look } from "./store/kv.js";

const HEADS = 1_000;
const PLANS = 2_000;
const NAMES = 1_000;
const LONGEST_NAME = 64; // of those that are remembered, in characters
const LONGEST_HEAD = 10_000; // likewise
const PREFIX = 41; // bytes of an entry before what its digest covers: see src/entry.rs
const CONTROL = /[\0-\x08\x0a-\x1f\x7f]/;
const encoder = new TextEncoder();

// A map that forgets what has not been used for longest.
class Recent extends Map {
  constructor(most) {
    super();
    this.most = most;
  }

  use(key) {
    const value = this.get(key);
    if (value === undefined) return undefined;
    this.delete(key);
    super.set(key, value);
    return value;
  }

  set(key, value) {
    super.set(key, value);
    if (this.size > this.most) this.delete(this.keys().next().value);
    return this;
  }
}

const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const latin1 = (bytes) => String.fromCharCode.apply(null, bytes);

export class Repeats {
  #settings = null;
  #names = new Recent(NAMES); // of headers → whether they are part of the digest
  #heads = new Recent(HEADS); // digests of heads whose bodies the long way reads
  #plans = new Recent(PLANS); // digests of head and body → { plan, name, answer }
  #prepared = new WeakMap(); // request → what is known of it already

  // Calls the instance for nothing. `entry.js` has the call.
  renew = () => {};

  // Begins anew, as the instance does whose plans these are. `tellNothing`: headers that no decision needs, with `*` for
  // families; `most`: of a body, in bytes; `memory`: entries in memory, if they are kept there. `kv`: the binding, where that is the
  // store and holds entries as they are; `timeout`: of a look into it, in milliseconds.
  begin(tellNothing, most, memory, kv, timeout) {
    this.#settings = { tellNothing, most, memory, kv, timeout };
    for (const known of [this.#names, this.#heads, this.#plans]) known.clear();
  }

  // The answer to a request, or undefined: then it takes the long way, from its beginning.
  async answer(request, env) {
    if (!this.#settings || request.method !== "POST") return undefined;
    const started = Date.now();
    const head = this.#head(request);
    if (head === undefined) return undefined;
    const prepared = { started, named: false, head: latin1(await sha256(encoder.encode(head))) };
    const met = this.#heads.use(prepared.head);
    if (met) {
      try {
        prepared.body = new Uint8Array(await request.arrayBuffer());
        prepared.question = prepared.head + latin1(await sha256(prepared.body));
        prepared.named = true;
      } catch {
        prepared.failed = true;
      }
    }
    const known = prepared.question && this.#plans.use(prepared.question);
    if (known) {
      try {
        const answer = await this.#known(known, prepared, env);
        if (answer) return answer;
      } catch (error) {
        // The plan's instance may have come to an end: whoever watches over it is to know.
        this.#plans.delete(prepared.question);
        reportError(error);
      }
    }
    // Only what goes on is kept: a body that is, is collected late.
    this.#prepared.set(request, prepared);
    return undefined;
  }

  // All that the long way's decisions can depend on but the body, or undefined where its length does not decide that it is
  // read: then the platform has to be asked.
  #head(request) {
    let head = `${request.url}\n`;
    let sized = false;
    let legible = true;
    request.headers.forEach((value, name) => {
      // The long way refuses others.
      if (CONTROL.test(value)) legible = false;
      if (name === "content-length") sized = /^[1-9]\d*$/.test(value) && Number(value) <= this.#settings.most;
      else if (this.#tells(name)) head += `${name}:${value}\n`;
    });
    return sized && legible ? head : undefined;
  }

  #tells(name) {
    let tells = this.#names.get(name);
    if (tells === undefined) {
      const is = (known) => (known.endsWith("*") ? name.startsWith(known.slice(0, -1)) : name === known);
      tells = !this.#settings.tellNothing.some(is);
      if (name.length <= LONGEST_NAME) this.#names.set(name, tells);
    }
    return tells;
  }

  async #known(known, prepared, env) {
    const { kv, timeout, memory } = this.#settings;
    const kept = memory?.find(known.name, Date.now());
    // What is remembered may be newer than what the store gives.
    if (kept) return this.#answer(known, kept.value, kept.id, undefined, prepared.started);
    this.renew();
    const value = kv ? await look(env[kv], known.name, timeout) : await known.plan.find(env);
    prepared.found = { name: known.name, value };
    if (!(value instanceof Uint8Array)) return undefined;
    const digest = await sha256(value.subarray(PREFIX));
    const id = latin1(value.subarray(0, PREFIX)) + latin1(digest);
    const answer = this.#answer(known, value, id, digest, prepared.started);
    if (answer) memory?.read(known.name, value, Date.now());
    return answer;
  }

  // What the plan makes of an entry, if that is all there is to it. Entries with the same `id` are the same; `digest` is that
  // of all behind the prefix, where the two have not been compared before.
  #answer(known, value, id, digest, started) {
    // Where the instance has come to an end this begins a new one, and the plan can tell that it is none of its own.
    this.renew();
    const now = Date.now();
    let { answer } = known;
    if (answer?.id !== id || now < answer.since || answer.until <= now) {
      const text = known.plan.answer(value, digest, now);
      if (text === undefined) return undefined;
      const { status, headers, start, until, line } = JSON.parse(text);
      answer = { id, since: now, until, start, line, init: { status, headers: headersOf(headers) } };
      known.answer = headers.length <= LONGEST_HEAD ? answer : undefined;
    }
    const response = new Response(value.subarray(answer.start), answer.init);
    known.plan.count();
    console.log(answer.line[0] + Math.max(0, now - started) + answer.line[1]);
    return response;
  }

  // What has been found out about a request on the short way.
  prepared(request) {
    return this.#prepared.get(request);
  }

  // The long way reads the bodies of requests with this head.
  met({ head }) {
    this.#heads.set(head, true);
  }

  // The long way has a plan for whoever asks this again.
  learn({ question }, plan, name) {
    if (question) this.#plans.set(question, { plan, name, answer: undefined });
  }
}

const repeats = new Repeats();

export const theRepeats = () => repeats;
