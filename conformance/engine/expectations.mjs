// Judges replies by the upstream's calls. In the profile `reprise`, the gateway's own headers must agree with them.

import { isDeepStrictEqual } from "node:util";
import { gunzipSync } from "node:zlib";
import { assertProxyError } from "../../testkit/assertions.mjs";
import { assertCacheFields, detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { parseJson } from "../../testkit/json.mjs";
import { checksum } from "./api-fixtures.mjs";
import { valueAt } from "./json-path.mjs";
import { Failure, NotApplicable } from "./outcome.mjs";
import { isStream, parseResponse } from "./parse-response.mjs";
import { markerOf } from "./responses.mjs";

export const excerpt = (reply) => JSON.stringify(reply.body.toString("utf8", 0, 200));
export const summary = (reply) => (reply.error ? `no response (${reply.error})` : `${reply.status} ${excerpt(reply)}`);

/** The reply's body without its content coding. */
export function decoded({ headers, complete, body }) {
  if (headers["content-encoding"] !== "gzip" || !complete) return body;
  try {
    return gunzipSync(body);
  } catch {
    throw new Failure("a response claims to be gzip and is not", { wrong: true });
  }
}

/** @typedef {Record<string, any>} Json */

/** Judges the replies of one case. A reply has `calls`, the upstream calls it made, and `by`, the call that its body comes from. */
export class Judge {
  script;
  profile;
  vars;
  firstBodies = new Map(); // call → the bytes that the client first received of it
  bodies = new Map(); // step → the bytes that the client received

  constructor({ script, profile, vars = {} }) {
    this.script = script;
    this.profile = profile;
    this.vars = vars;
  }

  isForwarded(reply) {
    this.#isNotForeign(reply);
    if (reply.calls.length === 0) throw new Failure(`the upstream was not called: ${summary(reply)}`, { wrong: true });
  }

  isMiss(reply, wrong = false) {
    this.#isNotForeign(reply);
    const { calls, by } = reply;
    if (calls.length === 0) {
      const source = this.script.calls[(by ?? 0) - 1];
      if (!source && reply.status >= 400 && !wrong)
        throw new Failure(`the gateway itself responded with ${summary(reply)}`);
      const what = source ? `the response to call ${by} (cache key "${source.cacheKey}")` : summary(reply);
      throw new Failure(`served without an upstream call: ${what}`, { wrong });
    }
    if (by !== undefined && !calls.some((call) => call.n === by)) {
      throw new Failure(`called the upstream but served the response to call ${by}`, { wrong: true });
    }
    this.#cacheHeaders(reply, "MISS");
  }

  isHit(reply, cacheKey) {
    this.#isNotForeign(reply);
    const source = this.script.calls[(reply.by ?? 0) - 1];
    if (source && source.cacheKey !== cacheKey)
      throw new Failure(`served the response for the cache key "${source.cacheKey}"`, { wrong: true });
    if (!source && reply.status >= 400) throw new Failure(`the gateway itself responded with ${summary(reply)}`);
    if (!reply.complete) throw new Failure("a stored response is truncated", { wrong: true });
    this.#cacheHeaders(reply, "HIT");
  }

  isBypass(reply) {
    this.isMiss(reply);
    this.#cacheHeaders(reply, "BYPASS");
  }

  #isNotForeign(reply) {
    if (reply.foreign) throw new Failure("served the response to another case's request", { wrong: true });
  }

  #cacheHeaders(reply, expected) {
    if (this.profile !== "reprise" || reply.error || reply.disconnected) return;
    const xCacheStatus = reply.headers["x-cache-status"];
    const cacheStatus = reply.headers["cache-status"] ?? "";
    const shown = `X-Cache-Status: ${xCacheStatus}; Cache-Status: ${cacheStatus}`;
    if (expected === "HIT") {
      // A coalesced response, and a stale one after an upstream error, were forwarded.
      const form = ["COALESCED", "STALE"].includes(xCacheStatus)
        ? /(^|,\s*)reprise; (hit|fwd=)/
        : /(^|,\s*)reprise; hit/;
      if (!["HIT", "STALE", "UPDATING", "COALESCED"].includes(xCacheStatus) || !form.test(cacheStatus))
        throw new Failure(`a hit has ${shown}`);
      if (xCacheStatus !== "COALESCED" && !/^\d+$/.test(reply.headers.age ?? ""))
        throw new Failure(`a hit has Age: ${reply.headers.age}`);
      return;
    }
    if (xCacheStatus === undefined || xCacheStatus === "HIT" || !/reprise; (fwd=|detail=)/.test(cacheStatus)) {
      throw new Failure(`a forwarded request has ${shown}`);
    }
    if (expected === "BYPASS" && xCacheStatus !== "BYPASS")
      throw new Failure(`a request that is not cached has ${shown}`);
  }

  /**
   * All expectations but `cache`. `first` is the reply to the first request of the step, `hit` the hit. `response`: the bytes that
   * the upstream was to send, for a step without a call.
   *
   * @param {Json} expect
   * @param {Json} first
   * @param {Json} [hit]
   * @param {{ response?: Buffer }} [planned]
   */
  details(expect, first, hit, { response } = {}) {
    const call = first.calls.at(-1);
    const reply = hit ?? first;
    this.#forwarded(expect, first);
    this.#calls(expect, first);
    if (expect.status !== undefined && first.status !== expect.status)
      throw new Failure(`the status is ${summary(first)}`);
    if (expect.cacheStatus !== undefined)
      this.#same(xCacheStatusOf(first), expect.cacheStatus, `X-Cache-Status (${first.headers["cache-status"]})`);
    if (expect.detail !== undefined) {
      const detail = detailOf(first);
      if (![expect.detail].flat().includes(detail))
        throw new Failure(`the detail of Cache-Status is ${detail}, not ${expect.detail}`);
    }
    if (expect.body !== undefined) this.#body(expect.body, first, call?.sent ?? response);
    if (expect.headers) this.#headers(expect.headers, first.headers, "the response");
    if (this.profile === "reprise") {
      assertCacheFields({ headers: first.headers });
      if (expect.repriseHeaders) this.#headers(expect.repriseHeaders, first.headers, "the response");
    }
    if (expect.hitHeaders && hit) this.#headers(expect.hitHeaders, hit.headers, "the hit");
    if (expect.sameBytesOnHit && reply.calls.length === 0 && !this.firstBodies.get(reply.by)?.equals(reply.body)) {
      throw new Failure(`the hit has other bytes than the first response: ${excerpt(reply)}`);
    }
    if (expect.truncated && first.complete && first.status < 400) {
      throw new Failure("the client cannot detect that the response is truncated", { wrong: true });
    }
    if (expect.notBuffered && call?.receivedInTime === false) {
      throw new Failure("buffered: the client received nothing of the first text until the upstream went on");
    }
    if (expect.isError && first.status < 400) throw new Failure(`not an error: ${summary(first)}`, { wrong: true });
    if (expect.contains && !reply.body.includes(expect.contains))
      throw new Failure(`no ${expect.contains} in ${excerpt(reply)}`);
    if (expect.vectors) this.#vectors(reply);
    if (expect.mode) this.#mode(expect.mode, reply);
    if (expect.defaultText) for (const one of new Set([first, reply])) this.defaultText(one);
    if (expect.usage !== undefined && parseResponse(reply)?.usage !== expect.usage) {
      throw new Failure(
        expect.usage ? "the requested usage is missing" : "there is a usage chunk that was not requested",
      );
    }
  }

  /** The whole text of the default response, streamed or not. */
  defaultText(reply) {
    if (reply.status >= 400) throw new Failure(`the gateway itself responded with ${summary(reply)}`);
    const parsed = parseResponse({ headers: reply.headers, body: decoded(reply) });
    const expected = `It is ${markerOf(this.script.token, reply.by)}, no more.`;
    if (parsed?.text !== expected) throw new Failure(`not the upstream's text: ${excerpt(reply)}`, { wrong: true });
    if (!parsed.ended)
      throw new Failure(`the stream has no end: …${reply.body.toString().slice(-120)}`, { wrong: true });
  }

  /**
   * @param {Json} expect
   * @param {Json} first
   */
  #calls({ calls, maxCalls }, first) {
    if (calls !== undefined) this.#same(this.script.calls.length, calls, "the number of upstream calls");
    const made = this.script.calls.filter(({ cacheKey }) => cacheKey === (first.cacheKey ?? cacheKey)).length;
    if (maxCalls !== undefined && made > maxCalls) throw new Failure(`the upstream was called ${made} times`);
  }

  /**
   * The last request that the upstream received.
   *
   * @param {Json} expect
   * @param {Json} first
   */
  #forwarded({ forwards = {}, sent }, first) {
    const call = first.calls.at(-1) ?? this.script.calls.at(-1);
    if (!call) {
      if (sent) throw new Failure("the upstream was not called");
      return;
    }
    if (
      forwards.member !== undefined &&
      valueAt(parseJson(call.body.toString()) ?? {}, forwards.member) === undefined
    ) {
      throw new NotApplicable(`the gateway does not forward \`${forwards.member}\``);
    }
    if (forwards.header && call.headers[forwards.header] === undefined)
      throw new NotApplicable(`the gateway does not forward ${forwards.header}`);
    if (forwards.query && !call.url.includes(forwards.query))
      throw new NotApplicable("the gateway does not forward the query");
    if (!sent) return;
    if (sent.method !== undefined) this.#same(call.method, sent.method, "the method of the upstream call");
    if (sent.url?.matches !== undefined) {
      if (!new RegExp(sent.url.matches).test(call.url))
        throw new Failure(`the URL of the upstream call is ${call.url}`);
    } else if (sent.url !== undefined) this.#same(call.url, sent.url, "the URL of the upstream call");
    if (sent.headers) this.#headers(sent.headers, call.headers, "the upstream call");
    if (sent.body === "request")
      this.#sameBytes(call.body, first.request.body ?? Buffer.alloc(0), "the body of the upstream call");
    else if (sent.body !== undefined)
      this.#body(sent.body, { body: call.body }, undefined, "the body of the upstream call");
  }

  #body(expected, reply, response, what = "the body") {
    if (expected === "response") {
      if (response) this.#sameBytes(reply.body, response, what);
    } else if (expected.step !== undefined) this.#sameBytes(reply.body, this.bodies.get(expected.step), what);
    else if (expected.text !== undefined) this.#same(reply.body.toString(), expected.text, what);
    else if (expected.error !== undefined) this.#proxyError(reply, expected.error);
    else this.#same(parseJson(reply.body.toString()), expected.json, what);
  }

  #proxyError(reply, code) {
    assertProxyError(reply, code);
    if (code !== "misconfigured") return;
    const { message } = parseJson(reply.body.toString()).error;
    if (!Object.keys(this.vars).some((name) => message.includes(name)))
      throw new Failure(`the message names no variable: ${message}`);
  }

  #mode(mode, reply) {
    if (isStream(reply) === (mode === "stream")) return;
    if (reply.status >= 400) throw new Failure(`the gateway itself responded with ${summary(reply)}`);
    throw new Failure(`a ${mode} response was requested, this is ${reply.headers["content-type"]}`, { wrong: true });
  }

  #vectors(reply) {
    const inputs = [parseJson(reply.request.body.toString()).input].flat();
    const actual = parseJson(reply.body.toString())?.data?.map(({ embedding }) => embedding[2]);
    const expected = inputs.map(checksum);
    if (!isDeepStrictEqual(actual, expected)) {
      throw new Failure(
        `the vectors belong to other inputs: ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`,
        { wrong: true },
      );
    }
  }

  #headers(expected, actual, whose) {
    for (const [name, wanted] of Object.entries(expected)) {
      const value = actual[name.toLowerCase()]?.toString(); // Node gives set-cookie as a list
      let fits = value === wanted;
      if (wanted === null) fits = value === undefined;
      else if (wanted.matches !== undefined) fits = new RegExp(wanted.matches).test(value ?? "");
      else if (wanted.lacks !== undefined) fits = !new RegExp(wanted.lacks).test(value ?? "");
      if (!fits) throw new Failure(`${whose} has ${name}: ${value}, not ${JSON.stringify(wanted)}`);
    }
  }

  #same(actual, expected, what) {
    const shown = (value) => JSON.stringify(value)?.slice(0, 300);
    if (!isDeepStrictEqual(actual, expected)) throw new Failure(`${what} is ${shown(actual)}, not ${shown(expected)}`);
  }

  #sameBytes(actual, expected, what) {
    if (actual.equals(expected)) return;
    let at = 0;
    while (at < actual.length && actual[at] === expected[at]) at += 1;
    const near = (bytes) => JSON.stringify(bytes.toString("latin1", Math.max(0, at - 20), at + 60));
    throw new Failure(
      `${what} differs at byte ${at} (${actual.length} bytes, not ${expected.length}): …${near(actual)}, not …${near(expected)}`,
    );
  }
}
