// Reads the cases, expands the compact forms, and says what is wrong with them.

import { readdirSync, readFileSync } from 'node:fs';
import { APIS } from './apis.mjs';

export const FOLDER = new URL('../cases/', import.meta.url);
const FIELDS = {
  case: ['id', 'name', 'kind', 'basis', 'topic', 'profile', 'api', 'needs', 'steps'],
  step: ['ask', 'answer', 'then', 'expect', 'question', 'times', 'parallel', 'leave', 'premise', 'settle'],
  ask: ['api', 'method', 'path', 'headers', 'party', 'control', 'set', 'remove', 'body', 'raw', 'base64', 'repeat'],
  answer: ['status', 'headers', 'json', 'text', 'base64', 'repeat', 'stream', 'error', 'set', 'drop', 'insert', 'newline', 'gzip',
    'holdFor', 'holdMs', 'refuse', 'short', 'quiet', 'chunked', 'split', 'wait'],
  expect: ['cache', 'status', 'equal', 'asSent', 'headers', 'hitHeaders', 'sent', 'text', 'mode', 'usage', 'seen', 'calls', 'own', 'broken', 'within',
    'latest', 'contains', 'isError', 'vectors'],
};
export const CACHE = ['miss', 'hit', 'stored', 'not stored', 'bypass', 'separate', 'either', 'expires', 'refused', 'any'];
export const TOPICS = ['key', 'canonical', 'tenants', 'status', 'truncation', 'streaming', 'cross-mode', 'concurrency', 'ttl',
  'bodies', 'headers', 'failure', 'scope'];

export function loadCases(folder = FOLDER) {
  const files = readdirSync(folder).filter((name) => name.endsWith('.json')).sort();
  return check(files.flatMap((name) => expand(JSON.parse(readFileSync(new URL(name, folder), 'utf8')))));
}

/** Cases as they are played, of whatever a file holds. */
export function expand(file) {
  if (Array.isArray(file)) return file.flatMap(expand);
  if (file.parameters) return Object.entries(file.parameters).flatMap(([api, parameters]) => expandParameters(file, api, parameters));
  if (file.spellings) return file.spellings.map((spelling) => expandSpelling(file, spelling));
  if (file.statuses) return file.statuses.map((status) => expandStatus(file, status));
  return [file];
}

// One case a parameter: changing it, or leaving it out, is another question; asking as at first is not. An entry is a list
// of two values, or an object { values, base: members that are there in every request, path: where in the body, keep: true
// (it cannot be left out) }, or the id of the case that covers what is special about it.
function expandParameters({ kind, basis, topic }, api, parameters) {
  return Object.entries(parameters).filter(([, entry]) => typeof entry !== 'string').map(([name, entry]) => {
    const { values, base = {}, path = name, keep = false, why = '', profile, kind: own = kind } = Array.isArray(entry) ? { values: entry } : entry;
    const ask = (value) => ({ set: { ...base, [path]: value } });
    const steps = [
      { ask: ask(values[0]), expect: { cache: 'stored', sent: { has: path } }, premise: true },
      { ask: ask(values[1]), question: 'changed', expect: 'separate' },
    ];
    if (!keep) steps.push({ ask: { set: base, remove: [path] }, question: 'left out', expect: 'separate' });
    steps.push({ ask: ask(values[0]), expect: 'either' });
    return { id: `key-${api}-${slug(name)}`, kind: own, basis, topic, api, ...(profile && { profile }), steps,
      name: `${api}: another \`${name}\` is another question${why && `, because ${why}`}` };
  });
}

// Two spellings of one request body: { id, name, api, a, b, same }. The same question may be asked twice of the upstream
// (`should` be a hit); another one must be.
function expandSpelling({ basis, topic }, { id, name, api = 'chat', a, b, same, kind, basis: own }) {
  const ask = (raw) => (typeof raw === 'string' ? { raw } : raw);
  const second = same ? { ask: ask(b), expect: { cache: 'hit' } } : { ask: ask(b), question: 'other', expect: 'separate' };
  return { id, name, kind: kind ?? (same ? 'should' : 'must'), basis: own ?? basis, topic, api,
    steps: [{ ask: ask(a), expect: 'stored', premise: true }, second] };
}

// One case a status: such an answer is never given to anybody again. (Success that is none is `must` too.)
function expandStatus({ kind, basis, topic }, { status, answer = {}, id = `status-${status}`, name, kind: own }) {
  const said = { status, ...(answer.json || answer.text !== undefined || status < 300 ? {} : { error: 'server_error' }), ...answer };
  return { id, kind: own ?? kind, basis, topic, name: name ?? `an answer with status ${status} is never replayed`,
    steps: [{ answer: said, expect: 'not stored' }] };
}

const slug = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');

/** The cases, if they are well-formed. */
export function check(cases) {
  const seen = new Set();
  const say = (entry, what) => { throw new Error(`case ${entry.id}: ${what}`); };
  for (const entry of cases) {
    const known = (object, kind) => {
      for (const field of Object.keys(object)) if (!FIELDS[kind].includes(field)) say(entry, `"${field}" is no field of a ${kind}`);
    };
    known(entry, 'case');
    if (!/^[a-z0-9]+(-[a-z0-9]+)*$/.test(entry.id ?? '')) say(entry, 'an id is kebab-case');
    if (seen.has(entry.id)) say(entry, 'is there twice');
    seen.add(entry.id);
    for (const field of ['name', 'basis']) if (typeof entry[field] !== 'string') say(entry, `needs a ${field}`);
    if (!['must', 'should', 'note'].includes(entry.kind)) say(entry, 'is of no kind');
    if (!TOPICS.includes(entry.topic)) say(entry, `has no such topic: ${entry.topic}`);
    if (![undefined, 'reprise'].includes(entry.profile)) say(entry, 'is of no profile');
    if (!entry.steps?.length) say(entry, 'has no steps');
    const check = (step) => {
      known(step, 'step');
      for (const inner of step.parallel ?? []) check(inner);
      known(step.ask ?? {}, 'ask');
      known(step.answer ?? {}, 'answer');
      const api = step.ask?.api ?? entry.api ?? 'chat';
      if (!APIS[api]) say(entry, `asks no such API: ${api}`);
      if (step.parallel || step.settle) return;
      const expect = expectation(step);
      known(expect, 'expect');
      if (!CACHE.includes(expect.cache)) say(entry, `expects no such thing: ${expect.cache}`);
    };
    entry.steps.forEach(check);
  }
  return cases;
}

export const expectation = ({ expect = 'any' }) => (typeof expect === 'string' ? { cache: expect } : { cache: 'any', ...expect });
