// The mutations apply to the source as it is, and each once.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { edits, mutate, mutations } from '../mutations.mjs';

test('there are enough, each with a name of its own', () => {
  const ids = mutations().map(({ id }) => id);
  assert.ok(ids.length >= 20);
  assert.equal(new Set(ids).size, ids.length);
});

for (const one of mutations()) {
  test(`${one.id} changes the source in one place`, () => {
    for (const edit of edits(one)) {
      const source = readFileSync(new URL(`../../${edit.file}`, import.meta.url), 'utf8');
      assert.notEqual(mutate(source, edit), source);
    }
  });
}

test('a text that is absent, or there twice, is an error', () => {
  assert.throws(() => mutate('a b', { id: 'm', search: 'c', replace: '' }));
  assert.throws(() => mutate('a a', { id: 'm', search: 'a', replace: '' }));
});
