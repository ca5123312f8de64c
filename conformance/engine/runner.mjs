// Runs cases against a gateway and says how each came out.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseJson } from "../../testkit/json.mjs";
import { APIS } from "./api-fixtures.mjs";
import { send } from "./client.mjs";
import { decoded, excerpt, Judge, summary } from "./expectations.mjs";
import { Failure, Inconclusive, NotApplicable } from "./outcome.mjs";
import { buildRequest } from "./requests.mjs";
import { callOfMarker, contentOf, markerOf } from "./responses.mjs";

/**
 * Runs one case: { id, outcome, why, wrong, calls, ms }. The outcome is `pass`, `fail`, `na` (the gateway lacks what the case needs) or
 * `inconclusive` (nothing was stored, so nothing could go wrong).
 *
 * `target`: { base, upstream, profile, adapter, hitTimeoutMs, limitMs, control }. With `control` the case has the target for itself:
 * { origin, clear(), advance(seconds), settled(exchange) }. Then every response is complete in the store before the next step, and
 * all calls to the upstream are the case's.
 */
export async function runCase(entry, target) {
  const started = performance.now();
  const run = new CaseRun(entry, target);
  const result = { id: entry.id, outcome: "pass" };
  try {
    await run.allSteps();
  } catch (error) {
    if (error instanceof NotApplicable) result.outcome = "na";
    else if (error instanceof Inconclusive) result.outcome = "inconclusive";
    else result.outcome = "fail";
    // Anything but a failed expectation is a mistake of the engine or of the case.
    result.why =
      result.outcome === "fail" && !(error instanceof Failure) && error.code !== "ERR_ASSERTION"
        ? error.stack
        : error.message;
    if (error.wrong) result.wrong = true;
  } finally {
    target.upstream.remove(run.token);
  }
  result.calls = run.script.calls.length;
  result.ms = Math.round(performance.now() - started);
  if (run.observed.length > 0) result.observed = run.observed.join("; ");
  return result;
}

/**
 * Runs all, some side by side; `onResult` gets each result. With `bail` none is begun after the first failure.
 *
 * @param {Record<string, any>[]} cases
 * @param {Record<string, any>} target
 * @param {{ concurrency?: number, onResult?: (result: Record<string, any>) => void, bail?: boolean }} [options]
 */
export async function runCases(cases, target, { concurrency = 12, onResult = () => {}, bail = false } = {}) {
  const results = new Map();
  const waiting = [...cases];
  let failed = false;
  const runNext = async () => {
    for (let entry = waiting.shift(); entry && !(bail && failed); entry = waiting.shift()) {
      const result = { ...(await runCase(entry, target)), kind: entry.kind, topic: entry.topic, name: entry.name };
      if (result.outcome === "fail" && entry.kind !== "note") failed = true;
      results.set(entry.id, result);
      onResult(result);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, () => runNext()));
  return cases.filter(({ id }) => results.has(id)).map(({ id }) => results.get(id));
}

class CaseRun {
  entry;
  target;
  script;
  judge;
  observed = []; // for the report
  token = `cf${randomBytes(8).toString("hex")}`;
  #hits = new Set(); // cache keys that have been hits
  #requests = 0;

  constructor(entry, target) {
    this.entry = entry;
    this.target = target;
    this.script = target.upstream.add(this.token, {
      defaultResponse: entry.defaultResponse,
      exclusive: target.control !== undefined,
    });
    this.judge = new Judge({ script: this.script, profile: target.profile, vars: entry.vars });
  }

  async allSteps() {
    await this.target.control?.clear();
    for (const [index, step] of this.entry.steps.entries()) {
      try {
        await this.#step(step, index);
      } catch (error) {
        const excused = step.precondition || (error.notStored && this.entry.kind === "must");
        if (error instanceof Failure && excused && !error.wrong)
          throw new Inconclusive(`nothing was stored: ${error.message}`);
        error.message = `step ${index}: ${error.message}`;
        throw error;
      }
    }
  }

  async #step(step, index) {
    if (step.advance !== undefined) return this.#advance(step.advance);
    if (step.settle) return this.#settle();
    if (step.parallel) return this.#parallel(step);
    if (step.concurrency) return this.#concurrent(step);
    for (let n = 0; n < (step.times ?? 1); n += 1) await this.#exchange(step, index);
  }

  async #advance(seconds) {
    if (!this.target.control) throw new NotApplicable("the gateway's clock cannot be moved");
    await this.target.control.advance(seconds);
  }

  async #exchange(step, index) {
    const { expect = {}, cacheKey = "first", repeatResponse = {} } = step;
    const request = (response = step.response) => this.#request(step, cacheKey, response);
    if (expect.cache === "separate" && this.#hits.size === 0)
      throw new Inconclusive("nothing was stored that could be served");
    const latest = expect.latest ? this.script.calls.length : 0;
    const response = this.target.control && this.#plannedBytes(step);
    const first = expect.cache === "hit" ? await this.#untilHit(request, cacheKey, latest) : await request();
    this.judge.bodies.set(index, first.body);
    const hit = await this.#cacheOutcome(expect, first, { request, cacheKey, repeatResponse });
    this.judge.details(expect, first, hit, { response });
  }

  /** Judges `expect.cache`; returns the hit, if there must be one. */
  async #cacheOutcome(expect, first, { request, cacheKey, repeatResponse }) {
    const { judge } = this;
    switch (expect.cache) {
      case "miss":
        return judge.isMiss(first);
      case "separate":
        return judge.isMiss(first, first.status < 400);
      case "stored":
        judge.isMiss(first);
        return this.#untilHit(request, cacheKey);
      case "hit":
        return first;
      case "not stored":
        judge.isForwarded(first);
        await this.#settle();
        return judge.isMiss(await request(repeatResponse), true);
      case "bypass":
        judge.isBypass(first);
        await this.#settle();
        return judge.isMiss(await request(), true);
      case "either":
        return first.calls.length > 0 ? judge.isMiss(first) : judge.isHit(first, cacheKey);
      case "expires":
        return this.#untilMiss(first, request, expect.withinMs ?? 6000);
      case "refused":
        if (first.calls.length > 0) throw new Failure("the upstream was called");
        return undefined;
      default:
        return first.foreign ? judge.isMiss(first) : undefined;
    }
  }

  // Different requests at once: each gets its own response.
  async #parallel({ parallel, response = {} }) {
    this.script.response = response;
    this.script.cacheKey = "parallel";
    await Promise.all(
      parallel.map(async (described) => {
        const request = this.#build(described);
        const reply = await this.#send(request);
        const call = this.script.calls[(reply.by ?? 0) - 1];
        if (!call)
          throw new Failure(`no upstream call made this response: ${excerpt(reply)}`, { wrong: reply.foreign });
        if (
          !call.body.equals(request.body) &&
          !call.body.includes(JSON.parse(request.body.toString()).messages?.at(-1).content)
        ) {
          throw new Failure("got the response to a concurrent request", { wrong: true });
        }
      }),
    );
  }

  /**
   * The same request many times at once.
   *
   * @param {Record<string, any>} step
   */
  async #concurrent({ concurrency, request = {}, response = {}, cacheKey = "first", expect = {} }) {
    const before = this.script.calls.length;
    this.script.response = response;
    this.script.cacheKey = cacheKey;
    const built = this.#build(request);
    const replies = await Promise.all(Array.from({ length: concurrency }, () => this.#send(built)));
    const calls = this.script.calls.length - before;
    this.observed.push(`${concurrency} concurrent requests made ${calls} upstream calls`);
    for (const reply of replies) {
      if (reply.foreign) throw new Failure("served the response to another case's request", { wrong: true });
      if (reply.status !== (expect.status ?? 200)) throw new Failure(`one of ${concurrency} got ${summary(reply)}`);
      if (expect.defaultText) this.judge.defaultText(reply);
    }
    if (expect.maxCalls !== undefined && calls > expect.maxCalls)
      throw new Failure(`${concurrency} concurrent requests made ${calls} upstream calls`);
  }

  /** Sends a step's request: the reply, with `calls`, the upstream calls that it made, and `by`, the call that its body comes from. */
  async #request(step, cacheKey, response = {}) {
    this.script.response = response;
    this.script.cacheKey = cacheKey;
    this.script.received = "";
    const before = this.script.calls.length;
    const request = this.#build(step.request ?? {});
    const watched = {
      onText: (text) => {
        this.script.received = text;
        this.script.changed();
      },
      ...(step.disconnect && { disconnectWhen: (text) => text.includes(markerOf(this.token, before + 1)) }),
    };
    const reply = await (this.target.control ? this.#controlled(request, response) : this.#send(request, watched));
    Object.assign(reply, { calls: this.script.calls.slice(before), request, cacheKey });
    this.#requests += 1;
    const { cache, calls, status } = step.expect ?? {};
    const isRefusal = cache === "refused" || calls !== undefined || (this.target.control && status !== undefined);
    if (this.#requests === 1 && reply.calls.length === 0 && reply.status >= 400 && !isRefusal) {
      throw new NotApplicable(`the gateway does not accept this request: ${summary(reply)}`);
    }
    if (reply.error && !reply.calls.length && !reply.disconnected) throw new Failure(`no response: ${reply.error}`);
    if (reply.by && !this.judge.firstBodies.has(reply.by)) this.judge.firstBodies.set(reply.by, reply.body);
    return reply;
  }

  // With the target for itself, and until the target has finished with it. The liveness probe alone leaves nothing to wait for.
  async #controlled(request, response) {
    const { control, upstream } = this.target;
    if (response.unreachable) await upstream.close();
    try {
      const exchange = () => this.#send(request);
      const reply = request.path === "/healthz" ? await exchange() : await control.settled(exchange);
      if (!reply.complete && response.truncate === undefined)
        throw new Failure(`a truncated response (${reply.error}): ${summary(reply)}`);
      if (reply.status === 0) throw new Failure(`no response: ${reply.error}`);
      return reply;
    } finally {
      if (response.unreachable) await upstream.listen();
    }
  }

  async #send(request, more) {
    const { base, limitMs, control } = this.target;
    const reply = await send(request.fromOrigin ? control.origin : base, { limitMs, ...request, ...more });
    const bytes = decoded(reply);
    const marked = callOfMarker(bytes.toString("latin1"));
    if (marked) {
      reply.foreign = marked.token !== this.token;
      reply.by = marked.n;
    } else {
      const n = APIS[request.api]?.callOf?.(parseJson(bytes.toString()) ?? {});
      if (Number.isInteger(n) && n > 0) reply.by = n;
    }
    return reply;
  }

  #build(request) {
    if (request.path !== undefined && !this.target.control) throw new NotApplicable("a path of Reprise's own");
    return buildRequest(request, { entry: this.entry, adapter: this.target.adapter, token: this.token });
  }

  // The bytes that the upstream sends if it is called in this step.
  #plannedBytes({ request = {}, response = {} }) {
    const { path, body } = this.#build(request);
    const call = { n: this.script.calls.length + 1, url: path, body: body ?? Buffer.alloc(0) };
    return Buffer.concat(contentOf(response, this.script, call).chunks);
  }

  // A hit, of call `latest` or a later one. It may take a moment until a response is stored. If a hit was seen before, or if the
  // repeats would be stored themselves, there is nothing to wait for.
  async #untilHit(request, cacheKey, latest = 0) {
    const hitTimeoutMs = this.#hits.has(cacheKey) && latest === 0 ? 0 : this.target.hitTimeoutMs;
    const limit = Date.now() + hitTimeoutMs;
    for (let delay = 10, n = 1; ; n += 1, delay = Math.min(delay * 2, 250)) {
      const reply = await request();
      if (reply.calls.length === 0) {
        this.judge.isHit(reply, cacheKey);
        this.#hits.add(cacheKey);
        if (!(reply.by < latest)) return reply;
        if (Date.now() > limit) throw new Failure("still the old response");
      } else this.judge.isMiss(reply);
      if (Date.now() >= limit) {
        throw new Failure(
          n === 1 ? "not a hit: the upstream was called again" : `not a hit: each of ${n} repeats called the upstream`,
          {
            notStored: true,
          },
        );
      }
      await sleep(delay);
    }
  }

  async #untilMiss(first, request, withinMs) {
    const limit = Date.now() + withinMs;
    for (let reply = first; reply.calls.length === 0; reply = await request()) {
      if (Date.now() > limit) throw new Failure(`still a hit after ${withinMs} ms`, { wrong: true });
      await sleep(50);
    }
  }

  // Waits until the target has stored everything that it is going to: what is requested now is stored after that, and is a hit in time.
  async #settle() {
    await this.script.until(() => this.script.calls.every((call) => call.ended), 3000);
    for (const stream of [false, true]) {
      const content = `What comes after {token}, ${this.#requests}?`;
      const step = { request: { api: "chat", set: { "messages.0.content": content, stream } } };
      const request = () => this.#request(step, content, stream ? { chunkBytes: 40 } : {});
      try {
        await request();
        await this.#untilHit(request, content);
      } catch (error) {
        if (error instanceof Failure && !error.wrong)
          throw new Inconclusive(`nothing is stored at all: ${error.message}`);
        throw error;
      }
    }
  }
}
