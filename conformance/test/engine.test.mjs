// The engine is right about a good cache and about bad ones; the cases are complete and well-formed.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { check, expand, loadCases } from '../engine/cases.mjs';
import { apiAt } from '../engine/apis.mjs';
import { events, understood } from '../engine/read.mjs';
import { Upstream, withSet } from '../engine/upstream.mjs';
import { conform } from '../run.mjs';
import { committed, extract, members } from '../sdk.mjs';
import { BROKEN, fake } from './fakes.mjs';

const cases = loadCases();

describe('the cases', () => {
  test('there are many, on every topic', () => {
    assert.ok(cases.length >= 150);
    assert.ok(cases.filter(({ profile, kind }) => !profile && kind === 'must').length >= 150);
  });

  test('what is malformed is refused', () => {
    const good = { id: 'a', name: 'a', kind: 'must', basis: 'b', topic: 'key', steps: [{ expect: 'hit' }] };
    check([good]);
    for (const wrong of [{ id: 'A b' }, { kind: 'may' }, { topic: 'else' }, { steps: [] }, { steps: [{ expect: 'luck' }] }, { colour: 'red' },
      { steps: [{ ask: { api: 'none' } }] }, { steps: [{ answer: { haste: 1 } }] }, { name: undefined }]) {
      assert.throws(() => check([{ ...good, ...wrong }]), JSON.stringify(wrong));
    }
    assert.throws(() => check([good, good]));
  });

  test('a parameter becomes a case', () => {
    const [one] = expand({ kind: 'must', basis: 'b', topic: 'key', parameters: { chat: { top_p: [0.5, 1], stream: 'elsewhere' } } });
    assert.equal(one.id, 'key-chat-top-p');
    assert.deepEqual(one.steps.map((step) => step.expect.cache ?? step.expect), ['stored', 'separate', 'separate', 'either']);
  });
});

describe('the parameters of the official clients', () => {
  test('the committed list is that of the installed clients', () => {
    assert.deepEqual(committed(), extract(), 'after an update: node conformance/sdk.mjs, then cases for what is new');
  });

  test('each has a case, or names the one that covers it', () => {
    const { parameters } = JSON.parse(readFileSync(new URL('../cases/parameters.json', import.meta.url), 'utf8'));
    const ids = new Set(cases.map(({ id }) => id));
    for (const [api, names] of Object.entries(committed().parameters)) {
      for (const name of names) {
        const entry = parameters[api][name];
        assert.ok(entry !== undefined, `${api}: \`${name}\` has no case`);
        if (typeof entry === 'string') assert.ok(ids.has(entry), `${api}: \`${name}\` is covered by ${entry}, which does not exist`);
      }
    }
  });

  test('members are read from types', () => {
    const source = `interface Other { z: 1; }\nexport interface A extends B { /** x: no; */ a: string; 'b'?: { c: 1; d: 2 }; e?: (f: X) => Y; g: Array<{ h: 1; }>; }`;
    assert.deepEqual(members(source, 'A'), ['a', 'b', 'e', 'g']);
    assert.throws(() => members(source, 'C'));
  });
});

describe('the parts', () => {
  test('paths are known by their ends', () => {
    assert.equal(apiAt('/v1/chat/completions?x=1'), 'chat');
    assert.equal(apiAt('/v1/completions'), 'completions');
    assert.equal(apiAt('/v1/messages/count_tokens'), 'count-tokens');
    assert.equal(apiAt('/v1/files/f1'), 'files');
  });

  test('members are set by their path', () => {
    assert.deepEqual(withSet({ a: [{ b: 1 }] }, { 'a.0.b': 2, 'c.0.d': 3 }), { a: [{ b: 2 }], c: [{ d: 3 }] });
  });

  test('streams are read as their clients read them', () => {
    assert.deepEqual(events('event: a\r\ndata: 1\r\ndata: 2\r\n\r\n: comment\r\n\r\ndata: [DONE]\r\n\r\n'), ['1\n2', '[DONE]']);
    const headers = { 'content-type': 'text/event-stream' };
    const body = Buffer.from('data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],"usage":{}}\n\n');
    assert.deepEqual(understood({ headers, body }), { text: 'a', ended: false, usage: true });
  });
});

describe('the command', () => {
  const run = (...args) => promisify(execFile)(process.execPath, [fileURLToPath(new URL('../run.mjs', import.meta.url)), ...args])
    .then(({ stdout }) => ({ code: 0, stdout }), ({ code, stdout }) => ({ code, stdout }));

  test('runs against any target, and its exit code says what came out', async () => {
    const free = await new Upstream().listen();
    await free.close();
    const cache = await fake({ origin: free.origin });
    const folder = mkdtempSync(path.join(os.tmpdir(), 'conformance-'));
    const file = path.join(folder, 'results.json');
    const target = ['--target', cache.target, '--upstream-port', String(free.port), '--patience', '500'];
    try {
      const good = await run(...target, '--only', 'cache-chat,key-chat-seed', '--json', file);
      assert.equal(good.code, 0, good.stdout);
      assert.match(good.stdout, /2 cases \(generic\)/);
      const { cases, totals } = JSON.parse(readFileSync(file, 'utf8'));
      assert.deepEqual(cases.map(({ outcome }) => outcome), ['pass', 'pass']);
      assert.equal(totals.must.pass + totals.should.pass, 2);
      const bad = await run(...target, '--only', 'spell-key-order');
      assert.equal(bad.code, 1);
      assert.match(bad.stdout, /spell-key-order/);
      assert.equal((await run(...target, '--only', 'tenant-namespace')).code, 0);
      assert.equal((await run(...target, '--only', 'tenant-namespace', '--strict')).code, 1, 'what was not exercised counts');
    } finally {
      cache.stop();
      rmSync(folder, { recursive: true });
    }
  });

  test('says how it is used', async () => {
    assert.equal((await run('--help')).code, 0);
    assert.equal((await run('--target', 'http://127.0.0.1:1')).code, 2);
    assert.match((await run('--list', '--profile', 'generic')).stdout, /must   key         key-chat-seed/);
  });
});

describe('the judgement', () => {
  let upstream;
  before(async () => { upstream = await new Upstream().listen(); });
  after(() => upstream.close());

  async function judge(wrong, only, of = cases) {
    const cache = await fake(upstream, wrong);
    try {
      return await conform({ target: cache.target, upstream, cases: of, only, patience: 300, concurrency: 24 });
    } finally {
      cache.stop();
    }
  }

  test('a plain good cache fails no `must`', async () => {
    const results = await judge();
    assert.deepEqual(results.filter(({ kind, outcome }) => kind === 'must' && outcome === 'fail').map(({ id, why }) => `${id}: ${why}`), []);
    assert.ok(results.filter(({ kind, outcome }) => kind === 'must' && outcome === 'pass').length > 200);
    const wanting = results.filter(({ outcome }) => outcome === 'fail').map(({ id }) => id);
    for (const id of ['spell-key-order', 'cross-chat-stream-then-plain']) assert.ok(wanting.includes(id), `${id} is beyond this cache`);
  });

  for (const [name, [wrong, ids]] of Object.entries(BROKEN)) {
    test(`a cache that ${name} is found out`, async () => {
      const results = await judge(wrong, undefined, cases.filter(({ id }) => ids.includes(id)));
      assert.equal(results.length, ids.length);
      assert.deepEqual(results.filter(({ outcome }) => outcome !== 'fail').map(({ id, outcome }) => `${id}: ${outcome}`), []);
    });
  }

  test('a cache that stores nothing is not praised for keeping apart what it never kept', async () => {
    const results = await judge({ lives: () => false }, ['key-chat-', 'status-502']);
    assert.ok(results.every(({ outcome }) => outcome === 'idle' || outcome === 'na'), JSON.stringify(results.find(({ outcome }) => outcome !== 'idle')));
  });

  test('what a target cannot be asked is not held against it', async () => {
    const cache = await fake(upstream);
    const given = { paths: { messages: null }, parties: { a: { authorization: 'Bearer k' } } };
    const results = await conform({ target: cache.target, upstream, cases, adapter: given, only: ['cache-messages', 'tenant-chat', 'ttl-expires', 'scope-thread'] });
    cache.stop();
    assert.deepEqual([...new Set(results.map(({ outcome }) => outcome))], ['na'], JSON.stringify(results));
  });
});
