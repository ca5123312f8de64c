// The in-memory tier: bounded, least recently used first, and never older than the store.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { MemoryCache } from "../../src/worker/store/memory.js";

const TTL_MS = 90_000;
const CAPACITY_BYTES = 100;
const MINUTE_MS = 60_000;

const bytes = (length, fill = 1) => new Uint8Array(length).fill(fill);
const create = ({ capacityBytes = CAPACITY_BYTES, ttlMs = TTL_MS } = {}) => new MemoryCache(capacityBytes, ttlMs);
/** Which of these keys are stored. Asking for them makes them recently used, in this order. */
const stored = (memory, keys, now = 0) => keys.filter((key) => memory.get(key, now) !== undefined);
/** Stores without invalidating, as after a read. */
const fill = (memory, keys, length, now = 0) => {
  for (const key of keys) memory.putIfCurrent(key, bytes(length), now);
};

describe("capacity", () => {
  test("the least recently used entry is evicted first", () => {
    const memory = create();
    fill(memory, ["a", "b", "c", "d"], 25);
    assert.deepEqual(stored(memory, ["b", "a"]), ["b", "a"]);
    fill(memory, ["e"], 25);
    fill(memory, ["f"], 25);
    assert.deepEqual(stored(memory, ["a", "b", "c", "d", "e", "f"]), ["a", "b", "e", "f"]);
  });

  test("as many are evicted as it takes", () => {
    const memory = create();
    fill(memory, [..."abcdefghij"], 10);
    fill(memory, ["k"], 25);
    assert.deepEqual(stored(memory, [..."abcdefghijk"]), [..."defghijk"]);
  });

  test("an entry of more than a quarter is not stored, and the one that it replaces is removed", () => {
    const memory = create();
    fill(memory, ["a", "b"], 25);
    fill(memory, ["a"], 26);
    assert.deepEqual(stored(memory, ["a", "b"]), ["b"]);
  });

  test("what is replaced, removed or expired takes no space", () => {
    const memory = create();
    for (let n = 0; n < 10; n += 1) fill(memory, ["a"], 25);
    fill(memory, ["b", "c", "d"], 25);
    assert.deepEqual(stored(memory, [..."abcd"]), [..."abcd"]);
    memory.invalidate("a", 0);
    fill(memory, ["e"], 25);
    assert.deepEqual(stored(memory, [..."bcde"]), [..."bcde"]);
    assert.deepEqual(stored(memory, [..."bcde"], TTL_MS), []);
    fill(memory, [..."fghi"], 25, TTL_MS);
    assert.deepEqual(stored(memory, [..."fghi"], TTL_MS), [..."fghi"]);
  });
});

describe("expiry", () => {
  test("an entry expires after the TTL, however often it is used", () => {
    const memory = create();
    fill(memory, ["a"], 1, 1_000);
    assert.deepEqual(stored(memory, ["a"], 1_000 + TTL_MS - 1), ["a"]);
    assert.deepEqual(stored(memory, ["a"], 1_000 + TTL_MS), []);
  });

  test("an entry that is stored again begins a new TTL", () => {
    const memory = create();
    fill(memory, ["a"], 1, 0);
    fill(memory, ["a"], 1, TTL_MS - 1);
    assert.deepEqual(stored(memory, ["a"], TTL_MS + 1), ["a"]);
  });
});

describe("entries", () => {
  test("a value comes back as it is, not as a copy", () => {
    const memory = create();
    const value = bytes(10);
    memory.put("a", value, 0);
    assert.equal(memory.get("a", 0), value);
    assert.equal(memory.getEntry("a", 0).value, value);
    assert.equal(memory.get("b", 0), undefined);
    assert.equal(memory.getEntry("b", 0), undefined);
  });

  test("no two entries have the same id, even under the same key and with the same value", () => {
    const memory = create();
    const ids = [];
    for (const key of ["a", "a", "b"]) {
      memory.put(key, bytes(1), 0);
      ids.push(memory.getEntry(key, 0).id);
    }
    memory.invalidate("a", 0);
    memory.put("a", bytes(1), 0);
    ids.push(memory.getEntry("a", 0).id);
    assert.equal(new Set(ids).size, 4);
    assert.equal(memory.getEntry("a", 0).id, ids[3]);
  });
});

describe("invalidation", () => {
  for (const [ttlMs, forMs] of [
    [TTL_MS, TTL_MS],
    [1_000, MINUTE_MS],
  ]) {
    for (const [how, invalidate] of /** @type {any[][]} */ ([
      ["of a key", (memory, now) => memory.invalidate("ns/a", now)],
      ["of a prefix", (memory, now) => memory.invalidatePrefix("ns/", now)],
    ])) {
      test(`${how}: what is read is not stored for ${forMs} ms (TTL ${ttlMs} ms)`, () => {
        const memory = create({ ttlMs });
        fill(memory, ["ns/a"], 1);
        invalidate(memory, 5);
        assert.deepEqual(stored(memory, ["ns/a"], 5), []);
        fill(memory, ["ns/a"], 1, 5 + forMs - 1);
        assert.deepEqual(stored(memory, ["ns/a"], 5 + forMs - 1), []);
        fill(memory, ["ns/a"], 1, 5 + forMs);
        assert.deepEqual(stored(memory, ["ns/a"], 5 + forMs), ["ns/a"]);
      });

      test(`${how}: what is written is stored at once (TTL ${ttlMs} ms)`, () => {
        const memory = create({ ttlMs });
        invalidate(memory, 5);
        memory.put("ns/a", bytes(1), 6);
        assert.deepEqual(stored(memory, ["ns/a"], 6), ["ns/a"]);
      });
    }
  }

  test("of a key concerns no other key", () => {
    const memory = create();
    fill(memory, ["a", "ab", "b"], 1);
    memory.invalidate("a", 0);
    assert.deepEqual(stored(memory, ["a", "ab", "b"]), ["ab", "b"]);
    fill(memory, ["a", "ab", "c"], 1);
    assert.deepEqual(stored(memory, ["a", "ab", "c"]), ["ab", "c"]);
  });

  test("of a prefix concerns all keys that begin with it, and no other", () => {
    const memory = create();
    const keys = ["ns/a", "ns/b", "ns", "other/a"];
    fill(memory, keys, 1);
    memory.invalidatePrefix("ns/", 0);
    assert.deepEqual(stored(memory, keys), ["ns", "other/a"]);
    fill(memory, keys, 1);
    assert.deepEqual(stored(memory, keys), ["ns", "other/a"]);
  });

  test("of another prefix later does not end the first one", () => {
    const memory = create();
    memory.invalidatePrefix("a/", 0);
    memory.invalidatePrefix("b/", TTL_MS - 1);
    fill(memory, ["a/x", "b/x"], 1, TTL_MS - 1);
    assert.deepEqual(stored(memory, ["a/x", "b/x"], TTL_MS - 1), []);
    memory.invalidatePrefix("c/", TTL_MS);
    fill(memory, ["a/x", "b/x", "c/x"], 1, TTL_MS);
    assert.deepEqual(stored(memory, ["a/x", "b/x", "c/x"], TTL_MS), ["a/x"]);
  });

  test("a value that was read does not replace one that was written since", () => {
    const memory = create();
    memory.put("a", bytes(1, 2), 0);
    memory.putIfCurrent("a", bytes(1, 1), 1);
    assert.deepEqual([...memory.get("a", 1)], [2]);
  });

  test("once more of the same key begins anew, and does not end that of others", () => {
    const memory = create();
    memory.invalidate("a", 0);
    memory.invalidate("b", 1_000);
    memory.invalidate("a", 2_000);
    memory.invalidate("c", TTL_MS);
    fill(memory, ["a", "b"], 1, TTL_MS + 999);
    assert.deepEqual(stored(memory, ["a", "b"], TTL_MS + 999), []);
    memory.invalidate("c", TTL_MS + 1_000);
    fill(memory, ["a", "b"], 1, TTL_MS + 1_000);
    assert.deepEqual(stored(memory, ["a", "b"], TTL_MS + 1_000), ["b"]);
  });
});
