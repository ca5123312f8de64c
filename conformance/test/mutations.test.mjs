// Each mutation applies to the current source, in one place.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { applyEdit, edits, mutations } from "../mutations.mjs";

test("there are enough, with distinct ids", () => {
  const ids = mutations().map(({ id }) => id);
  assert.ok(ids.length >= 20);
  assert.equal(new Set(ids).size, ids.length);
});

for (const mutation of mutations()) {
  test(`${mutation.id} changes the source in one place`, () => {
    for (const edit of edits(mutation)) {
      const source = readFileSync(new URL(`../../${edit.file}`, import.meta.url), "utf8");
      assert.notEqual(applyEdit(source, edit), source);
    }
  });
}

test("a text that is absent, or occurs twice, is an error", () => {
  assert.throws(() => applyEdit("a b", { id: "m", search: "c", replace: "" }));
  assert.throws(() => applyEdit("a a", { id: "m", search: "a", replace: "" }));
});
