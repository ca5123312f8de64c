// Plays a case against a target and judges it by what the upstream was asked.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { APIS, checksum } from './apis.mjs';
import { expectation } from './cases.mjs';
import { send } from './client.mjs';
import { isStream, json, understood } from './read.mjs';
import { markerOf, signature, withSet } from './upstream.mjs';

class Failure extends Error {
  constructor(message, wrong = false) {
    super(message);
    this.wrong = wrong; // somebody got an answer to another question, or half a one
  }
}
class NotApplicable extends Error {}
class Idle extends Error {}

/**
 * { id, outcome, why, wrong, calls, ms }: `pass`; `fail`; `na`: the target cannot be asked this; `idle`: it could not go wrong,
 * because nothing was stored.
 */
export async function play(entry, target) {
  const started = performance.now();
  const token = `cf${randomBytes(8).toString('hex')}`;
  const run = new Run(entry, target, token);
  const result = { id: entry.id, outcome: 'pass' };
  try {
    await run.all();
  } catch (error) {
    if (error instanceof NotApplicable) result.outcome = 'na';
    else if (error instanceof Idle) result.outcome = 'idle';
    else result.outcome = 'fail';
    result.why = error.message;
    if (!(error instanceof Failure) && result.outcome === 'fail') result.why = error.stack;
    if (error.wrong) result.wrong = true;
  } finally {
    target.upstream.forget(token);
  }
  result.calls = run.script.calls.length;
  result.ms = Math.round(performance.now() - started);
  if (run.observed.length > 0) result.observed = run.observed.join('; ');
  return result;
}

class Run {
  observed = []; // for `note`
  #bytes = new Map(); // what the client got of each call
  #answered = new Set(); // questions that the cache has been seen to answer
  #asked = 0;

  constructor(entry, target, token) {
    Object.assign(this, { entry, target, token });
    this.script = target.upstream.script(token);
  }

  async all() {
    const { lacks } = this.target.adapter;
    const lacking = (this.entry.needs ?? []).find((need) => lacks.includes(need));
    if (lacking) throw new NotApplicable(`the target has no ${lacking}`);
    for (const [i, step] of this.entry.steps.entries()) {
      try {
        await this.#step(step);
      } catch (error) {
        if (error instanceof Failure) {
          if ((step.premise || (error.unstored && this.entry.kind === 'must')) && !error.wrong) throw new Idle(`nothing was stored: ${error.message}`);
          error.message = `step ${i + 1}: ${error.message}`;
        }
        throw error;
      }
    }
  }

  async #step(step) {
    if (step.pause) return sleep(step.pause);
    if (step.settle) return this.#settle();
    if (step.parallel) return this.#parallel(step);
    if (step.times) return this.#crowd(step);
    const expect = expectation(step);
    const question = step.question ?? 'first';
    const ask = (answer = step.answer) => this.#ask(step, question, answer);
    if (expect.cache === 'separate' && this.#answered.size === 0) throw new Idle('nothing was stored that could be mixed up');
    const latest = expect.latest ? this.script.calls.length : 0;
    const first = expect.cache === 'hit' ? await this.#untilHit(ask, question, latest) : await ask();
    let hit;
    switch (expect.cache) {
      case 'miss':
      case 'separate':
        this.#isMiss(first, expect.cache === 'separate' && first.status < 400);
        break;
      case 'stored':
        this.#isMiss(first);
        hit = await this.#untilHit(ask, question);
        break;
      case 'hit':
        hit = first;
        break;
      case 'not stored':
        this.#isFromUpstream(first);
        await this.#settle();
        this.#isMiss(await ask(step.then ?? {}), true);
        break;
      case 'bypass':
        this.#isMiss(first);
        this.#own(first, 'BYPASS');
        await this.#settle();
        this.#isMiss(await ask(), true);
        break;
      case 'either':
        if (first.calls.length > 0) this.#isMiss(first);
        else this.#isHit(first, question);
        break;
      case 'expires':
        await this.#untilMiss(first, ask, expect.within ?? 6000);
        break;
      case 'refused':
        if (first.calls.length > 0) throw new Failure('the upstream was asked');
        break;
      case 'any':
        if (first.foreign) this.#isMiss(first);
        break;
    }
    this.#details(expect, first, hit);
  }

  // Different questions at once: each gets its own answer.
  async #parallel({ parallel, answer = {} }) {
    this.script.answer = answer;
    this.script.question = 'parallel';
    await Promise.all(parallel.map(async (step) => {
      const request = this.#request(step.ask ?? {});
      const reply = await this.#send(request);
      const by = this.script.calls[(reply.by ?? 0) - 1];
      if (!by) throw new Failure(`no call made this answer: ${excerpt(reply)}`, reply.foreign);
      if (!by.body.equals(request.body) && !by.body.includes(JSON.parse(request.body).messages?.at(-1).content)) {
        throw new Failure('got the answer to a question asked beside it', true);
      }
    }));
  }

  // One question by many at once.
  async #crowd(step) {
    const expect = expectation(step);
    const { calls: before } = this.script;
    const start = before.length;
    this.script.answer = step.answer ?? {};
    this.script.question = step.question ?? 'first';
    const request = this.#request(step.ask ?? {});
    const replies = await Promise.all(Array.from({ length: step.times }, () => this.#send(request)));
    const asked = this.script.calls.length - start;
    this.observed.push(`${step.times} at once asked the upstream ${asked} times`);
    for (const reply of replies) {
      if (reply.foreign) throw new Failure('got the answer to another question', true);
      if (reply.status !== (expect.status ?? 200)) throw new Failure(`one of ${step.times} got ${describe(reply)}`);
      if (expect.text) this.#text(reply);
    }
    if (expect.calls !== undefined && asked > expect.calls) throw new Failure(`the upstream was asked ${asked} times by ${step.times} at once`);
  }

  /** One request: the reply, with `calls`: what it made the upstream be asked, and `by`: the call that it is the answer of. */
  async #ask(step, question, answer = {}) {
    this.script.answer = answer;
    this.script.question = question;
    this.script.seen = '';
    const before = this.script.calls.length;
    const request = this.#request(step.ask ?? {});
    const reply = await this.#send(request, {
      onPiece: (text) => { this.script.seen = text; this.script.changed(); },
      ...(step.leave ? { leaveWhen: (text) => text.includes(markerOf(this.token, before + 1)) } : {}),
    });
    reply.calls = this.script.calls.slice(before);
    reply.request = request;
    reply.question = question;
    this.#asked += 1;
    const { cache } = expectation(step);
    if (this.#asked === 1 && reply.calls.length === 0 && reply.status >= 400 && cache !== 'refused') {
      throw new NotApplicable(`the target does not take this request: ${describe(reply)}`);
    }
    if (reply.error && !reply.calls.length && !reply.left) throw new Failure(`no answer: ${reply.error}`);
    if (reply.by) {
      if (!this.#bytes.has(reply.by)) this.#bytes.set(reply.by, reply.body);
    }
    return reply;
  }

  async #send(request, more) {
    const reply = await send(this.target.base, { limit: this.target.limit, ...request, ...more });
    const bytes = decoded(reply);
    const signed = signature(bytes.toString('latin1'));
    if (signed) {
      reply.foreign = signed.token !== this.token;
      reply.by = signed.n;
    } else {
      const n = APIS[request.api].callOf?.(json(bytes.toString()) ?? {});
      if (Number.isInteger(n) && n > 0) reply.by = n;
    }
    return reply;
  }

  #request(ask) {
    const { adapter } = this.target;
    const name = ask.api ?? this.entry.api ?? 'chat';
    const api = APIS[name];
    const fill = (text) => text.replaceAll('{token}', this.token).replace(/\{([a-z-]*model)\}/g, (_, model) => adapter.models[model]);
    const at = adapter.paths[name];
    if (at === null) throw new NotApplicable(`the target has no ${name}`);
    const party = adapter.parties[ask.party ?? 'a'];
    if (!party) throw new NotApplicable(`the target knows no caller ${ask.party}`);
    const headers = { ...api.headers, ...party, ...adapter.headers, ...adapter.apiHeaders[name] };
    const method = ask.method ?? (api.body ? 'POST' : 'GET');
    let object;
    let body;
    if (ask.raw !== undefined) body = Buffer.from(fill(ask.raw));
    else if (ask.base64 !== undefined) body = Buffer.from(ask.base64, 'base64');
    else if (ask.repeat !== undefined) body = Buffer.from(fill((ask.repeat.head ?? '') + ask.repeat.unit.repeat(ask.repeat.times) + (ask.repeat.tail ?? '')));
    else if (api.body && method !== 'GET' && ask.body !== null) {
      object = withSet(structuredClone(ask.body ?? api.body), ask.set ?? {});
      for (const path of ask.remove ?? []) removePath(object, path);
    }
    for (const [control, value] of Object.entries(ask.control ?? {})) {
      const how = adapter.controls[control];
      if (!how) throw new NotApplicable(`the target cannot be told ${control}`);
      for (const [header, text] of Object.entries(how.headers ?? {})) headers[header] = fill(text.replaceAll('{value}', value));
      if (how.body && object === undefined) throw new NotApplicable(`the target takes ${control} in the body only`);
      for (const [path, said] of Object.entries(how.body ?? {})) object = withSet(object, { [path]: said === '{value}' ? value : said });
    }
    if (object !== undefined) body = Buffer.from(fill(JSON.stringify({ ...object, ...adapter.body })));
    if (body !== undefined) headers['content-type'] = 'application/json';
    for (const [header, value] of Object.entries(ask.headers ?? {})) headers[header] = value === null ? null : fill(value);
    return { api: name, method, path: fill((at ?? adapter.base + api.path) + (ask.path ?? '')), headers, body };
  }

  // A hit, of call `latest` or a later one. An answer may take a moment to be stored; once it has been seen, or repeats would
  // themselves be stored and then found, there is nothing to wait for.
  async #untilHit(ask, question, latest = 0) {
    const limit = Date.now() + (this.#answered.has(question) && latest === 0 ? 0 : this.target.patience);
    for (let delay = 10, n = 1; ; n += 1, delay = Math.min(delay * 2, 250)) {
      const reply = await ask();
      if (reply.calls.length === 0) {
        this.#isHit(reply, question);
        this.#answered.add(question);
        if (!(reply.by < latest)) return reply;
        if (Date.now() > limit) throw new Failure('still the old answer');
      } else this.#isMiss(reply);
      if (Date.now() >= limit) throw Object.assign(new Failure(n === 1 ? 'not a hit: the upstream was asked again' : `not a hit: each of ${n} repeats asked the upstream`), { unstored: true });
      await sleep(delay);
    }
  }

  async #untilMiss(first, ask, within) {
    const limit = Date.now() + within;
    for (let reply = first; reply.calls.length === 0; reply = await ask()) {
      if (Date.now() > limit) throw new Failure(`still answered by the cache after ${within} ms`, true);
      await sleep(50);
    }
  }

  // Waits until whatever the target writes by now is written: questions asked now are written behind it, and are hits in time.
  async #settle() {
    await this.script.until(() => this.script.calls.every((call) => call.ended), 3000);
    for (const stream of [false, true]) {
      const question = `What comes after {token}, ${this.#asked}?`;
      const step = { ask: { api: 'chat', set: { 'messages.0.content': question, stream } } };
      const ask = () => this.#ask(step, question, stream ? { split: 40 } : {});
      try {
        await ask();
        await this.#untilHit(ask, question);
      } catch (error) {
        if (error instanceof Failure && !error.wrong) throw new Idle(`nothing is stored at all: ${error.message}`);
        throw error;
      }
    }
  }

  #isFromUpstream(reply) {
    if (reply.foreign) throw new Failure('got the answer to another question', true);
    if (reply.calls.length === 0) throw new Failure(`the upstream was not asked: ${describe(reply)}`, true);
  }

  #isMiss(reply, wrong = false) {
    if (reply.foreign) throw new Failure('got the answer to another question', true);
    const { calls, by } = reply;
    if (calls.length === 0) {
      const of = this.script.calls[(by ?? 0) - 1];
      if (!of && reply.status >= 400 && !wrong) throw new Failure(`answered without asking the upstream, by itself: ${describe(reply)}`);
      const what = of ? `with the answer to call ${by} (question "${of.question}")` : `with ${describe(reply)}`;
      throw new Failure(`answered without asking the upstream, ${what}`, wrong);
    }
    if (by !== undefined && !calls.some((call) => call.n === by)) throw new Failure(`asked the upstream but gave the answer to call ${by}`, true);
    this.#own(reply, 'forwarded');
  }

  #isHit(reply, question) {
    if (reply.foreign) throw new Failure('got the answer to another question', true);
    const of = this.script.calls[(reply.by ?? 0) - 1];
    if (of && of.question !== question) throw new Failure(`got the answer to question "${of.question}"`, true);
    if (!of && reply.status >= 400) throw new Failure(`answered by itself with ${describe(reply)}`);
    if (!reply.whole) throw new Failure('a stored answer broke off', true);
    this.#own(reply, 'HIT');
  }

  // Our own headers, in the profile that looks at them.
  #own(reply, expected) {
    if (this.target.profile !== 'reprise' || reply.error || reply.left) return;
    const said = reply.headers['x-cache-status'];
    const status = reply.headers['cache-status'] ?? '';
    const show = `X-Cache-Status: ${said}; Cache-Status: ${status}`;
    if (expected === 'HIT') {
      // Who shares another's answer, and gets one past its lifetime because the upstream failed, was forwarded.
      const form = ['COALESCED', 'STALE'].includes(said) ? /(^|,\s*)reprise; (hit|fwd=)/ : /(^|,\s*)reprise; hit/;
      if (!['HIT', 'STALE', 'UPDATING', 'COALESCED'].includes(said) || !form.test(status)) throw new Failure(`a hit says ${show}`);
      if (said !== 'COALESCED' && !/^\d+$/.test(reply.headers.age ?? '')) throw new Failure(`a hit has Age: ${reply.headers.age}`);
    } else {
      if (said === undefined || said === 'HIT' || !/reprise; (fwd=|detail=)/.test(status)) throw new Failure(`what the upstream answered says ${show}`);
      if (expected === 'BYPASS' && said !== 'BYPASS') throw new Failure(`what is not cached says ${show}`);
    }
  }

  #details(expect, first, hit) {
    const call = first.calls.at(-1);
    if (expect.sent && call) this.#sent(expect.sent, call, first);
    if (expect.status !== undefined && first.status !== expect.status) throw new Failure(`the status is ${describe(first)}`);
    if (expect.asSent && call && !first.body.equals(call.sent)) throw new Failure(`the client got other bytes than the upstream sent: ${excerpt(first)}`);
    if (expect.broken && first.whole && first.status < 400) throw new Failure('the client cannot tell that the answer broke off', true);
    if (expect.seen && call && call.seenInTime === false) throw new Failure('held back: the client saw nothing of the first text until the upstream had gone on');
    const asked = this.script.calls.filter((one) => one.question === (first.question ?? one.question)).length;
    if (expect.calls !== undefined && asked > expect.calls) throw new Failure(`the upstream was asked ${asked} times`);
    if (expect.headers) this.#headers(expect.headers, first.headers, 'the answer');
    if (expect.own && this.target.profile === 'reprise') this.#headers(expect.own, first.headers, 'the answer');
    const reply = hit ?? first;
    if (expect.hitHeaders && hit) this.#headers(expect.hitHeaders, hit.headers, 'the hit');
    if (expect.equal && reply.calls.length === 0) {
      const before = this.#bytes.get(reply.by);
      if (!before?.equals(reply.body)) throw new Failure(`the hit has other bytes than the first answer: ${excerpt(reply)}`);
    }
    if (expect.vectors) this.#vectors(reply);
    if (expect.contains && !reply.body.includes(expect.contains)) throw new Failure(`there is no ${expect.contains} in ${excerpt(reply)}`);
    if (expect.isError && first.status < 400) throw new Failure(`not an error: ${describe(first)}`, true);
    if (expect.mode && isStream(reply) !== (expect.mode === 'stream')) {
      if (reply.status >= 400) throw new Failure(`failed by itself: ${describe(reply)}`);
      throw new Failure(`asked for a ${expect.mode} answer, got ${reply.headers['content-type']}`, true);
    }
    if (expect.text) for (const one of new Set([first, reply])) this.#text(one);
    if (expect.usage !== undefined && understood(reply)?.usage !== expect.usage) {
      throw new Failure(expect.usage ? 'the usage that was asked for is not there' : 'there is a usage chunk that nobody asked for');
    }
  }

  // The default answer, whole, whichever way it is carried.
  #text(reply) {
    if (reply.status >= 400) throw new Failure(`failed by itself: ${describe(reply)}`);
    const read = understood({ headers: reply.headers, body: decoded(reply) });
    const wanted = `It is ${markerOf(this.token, reply.by)}, no more.`;
    if (read?.text !== wanted) throw new Failure(`not the upstream's text: ${excerpt(reply)}`, true);
    if (!read.ended) throw new Failure(`the stream has no end: …${reply.body.toString().slice(-120)}`, true);
  }

  // Each vector belongs to the text in its place, whatever was asked when.
  #vectors(reply) {
    const asked = [json(reply.request.body.toString()).input].flat();
    const got = json(reply.body.toString())?.data?.map(({ embedding }) => embedding[2]);
    const wanted = asked.map(checksum);
    if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Failure(`the vectors belong to other texts: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`, true);
  }

  #sent(wanted, call, reply) {
    if (wanted.has !== undefined) {
      const said = json(call.body.toString()) ?? {};
      const there = wanted.has.split('.').reduce((at, name) => at?.[name], said);
      if (there === undefined) throw new NotApplicable(`the target does not pass \`${wanted.has}\` on`);
    }
    if (wanted.passes && call.headers[wanted.passes] === undefined) throw new NotApplicable(`the target does not pass ${wanted.passes} on`);
    if (wanted.query && !call.url.includes(wanted.query)) throw new NotApplicable('the target does not pass the query on');
    if (wanted.headers) this.#headers(wanted.headers, call.headers, 'the request to the upstream');
    if (wanted.body === 'same' && !call.body.equals(reply.request.body)) throw new Failure(`the upstream got another body: ${call.body.toString().slice(0, 300)}`);
    if (wanted.url && !new RegExp(wanted.url).test(call.url)) throw new Failure(`the upstream was asked at ${call.url}`);
    if (wanted.method && call.method !== wanted.method) throw new Failure(`the upstream was asked by ${call.method}`);
  }

  #headers(wanted, got, what) {
    for (const [name, value] of Object.entries(wanted)) {
      const said = got[name];
      const fits = value === null ? said === undefined
        : value.matches !== undefined ? new RegExp(value.matches).test(said ?? '')
        : value.lacks !== undefined ? !new RegExp(value.lacks).test(said ?? '') : said === value;
      if (!fits) throw new Failure(`${what} has ${name}: ${said}`);
    }
  }
}

function removePath(object, path) {
  const names = path.split('.');
  const last = names.pop();
  const at = names.reduce((inner, name) => inner?.[name], object);
  if (Array.isArray(at)) at.splice(Number(last), 1);
  else if (at) delete at[last];
}

function decoded({ headers, whole, body }) {
  if (headers['content-encoding'] !== 'gzip' || !whole) return body;
  try {
    return gunzipSync(body);
  } catch {
    throw new Failure('an answer claims to be gzip and is not', true);
  }
}

const excerpt = (reply) => JSON.stringify(reply.body.toString('utf8', 0, 200));
const describe = (reply) => (reply.error ? `no answer (${reply.error})` : `${reply.status} ${excerpt(reply)}`);

/** Plays all, some side by side; `onResult` as they come. With `bail`, none is begun after the first failure. */
export async function playAll(cases, target, { concurrency = 12, onResult = () => {}, bail = false } = {}) {
  const results = new Map();
  const waiting = [...cases];
  let failed = false;
  const worker = async () => {
    for (let entry; (entry = waiting.shift()) && !(bail && failed);) {
      const result = { ...await play(entry, target), kind: entry.kind, topic: entry.topic, name: entry.name };
      if (result.outcome === 'fail' && entry.kind !== 'note') failed = true;
      results.set(entry.id, result);
      onResult(result);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  return cases.filter(({ id }) => results.has(id)).map(({ id }) => results.get(id));
}
