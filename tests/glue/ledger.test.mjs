// The ledger's arithmetic: a batch counts once, hours become days, the busiest entries stay.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { NAMES, NUMBERS } from "../../src/worker/ledger/book.js";
import { InvalidQuery } from "../../src/worker/ledger/query.js";
import { listEntries, report } from "../../src/worker/ledger/report.js";
import { randomIntegers } from "../../testkit/random.mjs";
import { batch, createBook, entry, row } from "./support/sqlite.mjs";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const DAY = 20_000; // days since 1970
const NOW = DAY * DAY_MS;
const EVER = /** @type {[number, number]} */ ([0, 1e9]);
/** A dollar for each token, for one model. */
const prices = {
  version: "test 1",
  price: (_, model) => (model === "gpt-4o" ? ({ input, output }) => input + output : undefined),
};
const ask = (book, query = "", now = NOW) => report(book, new URLSearchParams(query), prices, now);
const plain = (value) => JSON.parse(JSON.stringify(value));

describe("batches", () => {
  test("a batch counts once, however often and in whatever order its repetitions arrive", () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const next = randomIntegers(seed);
      const book = createBook();
      const expected = new Map();
      const queues = Array.from({ length: 4 }, (_, isolate) => {
        return Array.from({ length: 1 + next(8) }, (_, n) => {
          const rows = Array.from({ length: 1 + next(4) }, () =>
            row(
              DAY * 24 - next(48),
              { model: `m${next(3)}`, outcome: next(2) ? "HIT" : "MISS" },
              { 0: 1 + next(5), 3: next(100) },
            ),
          );
          return { isolate: `i${isolate}`, number: n + 1, batch: batch(rows, { totals: [["requests", rows.length]] }) };
        });
      });
      const sent = [];
      while (queues.some((queue) => queue.length > 0)) {
        // An isolate sends its next batch once the last one has arrived. Earlier ones may arrive again at any time.
        const message = sent.length > 0 && next(3) === 0 ? sent[next(sent.length)] : queues[next(4)].shift();
        if (!message) continue;
        if (!sent.includes(message)) {
          sent.push(message);
          for (const { hour, model, outcome, numbers } of message.batch.rows) {
            const id = [hour, model, outcome].join();
            const sum = expected.get(id) ?? [0, 0];
            expected.set(id, [sum[0] + numbers[0], sum[1] + numbers[3]]);
          }
        }
        book.add(message, NOW);
      }
      const found = book.sums(...EVER, ["hour", "model", "outcome"]);
      assert.deepEqual(
        new Map(found.map((sum) => [[sum.hour, sum.model, sum.outcome].join(), [sum.requests, sum.saved_input]])),
        new Map([...expected].sort(([a], [b]) => (a < b ? -1 : 1))),
        `seed ${seed}`,
      );
      const rows = sent.reduce((sum, message) => sum + message.batch.rows.length, 0);
      assert.deepEqual(book.totals(), [["requests", rows]]);
    }
  });

  test("a batch that fails is not added in part", () => {
    const book = createBook();
    const broken = { ...row(1), numbers: Array(13).fill("x").with(0, null) };
    assert.throws(() => book.add({ isolate: "i", number: 1, batch: batch([row(1), broken]) }, NOW));
    book.add({ isolate: "i", number: 1, batch: batch([row(1)]) }, NOW);
    assert.equal(book.sums(...EVER, [])[0].requests, 1);
  });

  test("models beyond the limit of an hour are counted together", () => {
    const book = createBook();
    const models = (from, n) => Array.from({ length: n }, (_, i) => row(DAY * 24, { model: `m${from + i}` }));
    for (let n = 0; n < 5; n += 1) book.add({ isolate: "i", number: n, batch: batch(models(n * 500, 500)) }, NOW);
    book.add({ isolate: "i", number: 9, batch: batch([row(DAY * 24, { model: "m0" })]) }, NOW);
    const rows = book.sums(...EVER, ["model"]);
    assert.equal(
      rows.reduce((sum, { requests }) => sum + requests, 0),
      2_501,
    );
    assert.ok(rows.length <= 2_001, `${rows.length} rows`);
    assert.equal(rows.find(({ model }) => model === "m0").requests, 2, "a row that is there goes on");
  });
});

test("hours become days after 35 days, and no sum changes", () => {
  for (let seed = 1; seed <= 10; seed += 1) {
    const next = randomIntegers(seed);
    const book = createBook();
    const rows = Array.from({ length: 200 }, () => {
      const numbers = Object.fromEntries(NUMBERS.map((_, at) => [at, next(1_000)]));
      return row((DAY - next(60)) * 24 + next(24), { model: `m${next(3)}`, reason: next(2) ? "memory" : "" }, numbers);
    });
    book.add({ isolate: "a", number: 1, batch: batch(rows) }, NOW - 60 * DAY_MS);
    const byDay = plain(book.sums(...EVER, ["day", ...NAMES]));
    book.add({ isolate: "b", number: 1, batch: batch([]) }, NOW);
    assert.deepEqual(plain(book.sums(...EVER, ["day", ...NAMES])), byDay, `seed ${seed}`);
    const hours = book.sums(...EVER, ["hour"]).map(({ hour }) => hour);
    const oldest = (DAY - 35) * 24;
    assert.ok(hours.filter((hour) => hour < oldest).every((hour) => hour % 24 === 0));
    assert.ok(
      hours.some((hour) => hour >= oldest && hour % 24 !== 0),
      "younger hours stay",
    );
  }
});

test("the 5,000 busiest entries stay", () => {
  const book = createBook();
  const name = (n) => String(n).padStart(64, "0");
  for (let from = 0; from < 8_000; from += 500) {
    const entries = Array.from({ length: 500 }, (_, i) => entry(name(from + i), { requests: from + i, last_at: 1 }));
    book.add({ isolate: "i", number: from + 1, batch: batch([], { entries }) }, NOW);
  }
  const page = (offset) => book.entries({ filter: {}, storedFrom: 0, storedTo: NOW, offset, limit: 200 }).rows;
  const [first] = page(0);
  assert.deepEqual([first.key, first.requests], [name(7_999), 7_999]);
  const kept = [];
  for (let offset = 0; offset < 5_000; offset += 200) kept.push(...page(offset));
  assert.deepEqual(
    kept.map(({ requests }) => requests),
    Array.from({ length: 5_000 }, (_, i) => 7_999 - i),
  );
  assert.deepEqual(page(5_000), []);
  assert.ok(book.exec("SELECT count(*) AS n FROM entries")[0].n <= 6_000);
});

describe("reports", () => {
  const book = createBook();
  const at = DAY * 24;
  book.add(
    {
      isolate: "i",
      number: 1,
      batch: batch(
        [
          row(at, { reason: "memory" }, { 0: 3, 2: 30, 3: 6, 4: 3, 5: 2, 11: 4_000 }),
          row(at + 1, { outcome: "MISS", namespace: "n" }, { 0: 2, 2: 20, 7: 4, 8: 2, 12: 900 }),
          row(at - 24, { outcome: "MISS", model: "unknown" }, { 0: 5, 7: 1 }),
          row(at, { outcome: "COALESCED" }, { 0: 1, 1: 1 }),
          row(at, { outcome: "BYPASS", model: "", endpoint: "", reason: "endpoint" }, { 0: 7 }),
        ],
        { entries: [entry("k", { hits: 1, tokens: [2, 1], ms: 1_500, last_at: NOW, stored_at: NOW - 60_000 })] },
      ),
    },
    NOW,
  );

  test("totals have requests, tokens, money and time", () => {
    assert.deepEqual(plain(ask(book)).totals, {
      requests: 18,
      hits: 3,
      coalesced: 1,
      bytes: 50,
      tokens_saved: { input: 6, output: 3, cached_input: 2, cache_write: 0 },
      tokens_spent: { input: 5, output: 2, cached_input: 0, cache_write: 0 },
      usd_saved: 9,
      usd_spent: 6,
      // Those of an unknown model, and one of which no tokens are known.
      unpriced_requests: 6,
      seconds_saved: 4,
      seconds_spent: 1,
    });
  });

  test("rows are grouped by what is asked for", () => {
    const { rows, from, to, prices: version, complete_until } = plain(ask(book, "by=day,model,reason"));
    assert.deepEqual([from, to, version], ["2024-09-05T00:00:00Z", "2024-10-05T00:00:00Z", "test 1"]);
    assert.equal(complete_until, new Date(NOW - 30_000).toISOString());
    assert.deepEqual(
      rows.map(({ day, model, reason, requests }) => [day, model, reason, requests]),
      [
        ["2024-10-03", "unknown", null, 5],
        ["2024-10-04", null, "endpoint", 7],
        ["2024-10-04", "gpt-4o", null, 3],
        ["2024-10-04", "gpt-4o", "memory", 3],
      ],
    );
    assert.deepEqual(plain(ask(book, "by=")).rows, []);
    const hours = plain(ask(book, "by=hour&from=2024-10-04&to=2024-10-04")).rows;
    assert.deepEqual(
      hours.map(({ hour, requests }) => [hour, requests]),
      [
        ["2024-10-04T00:00:00Z", 11],
        ["2024-10-04T01:00:00Z", 2],
      ],
    );
    assert.deepEqual(
      plain(ask(book, "by=namespace")).rows.map(({ namespace }) => namespace),
      ["", "n"],
    );
    assert.equal(plain(ask(book, "to=2024-10-03")).totals.requests, 5);
    // A time as the end is not included, as a day is.
    assert.equal(plain(ask(book, "from=2024-10-04T00:00:00Z&to=2024-10-04T01:00Z")).totals.requests, 11);
    assert.equal(plain(ask(book, "from=2024-10-04T01:00Z&to=2024-10-05T00:00:00.000Z")).totals.requests, 2);
  });

  test("the rows of any grouping add up to the totals", () => {
    for (const by of ["hour", "day", ...NAMES, "provider,outcome", NAMES.join(",")]) {
      const { rows, totals } = plain(ask(book, `by=${by}`));
      for (const name of ["requests", "hits", "coalesced", "usd_saved", "usd_spent", "unpriced_requests"]) {
        assert.equal(
          rows.reduce((sum, each) => sum + each[name], 0),
          totals[name],
          `${by}: ${name}`,
        );
      }
    }
  });

  test("a parameter that cannot be read is named", () => {
    for (const [query, name] of [
      ["from=yesterday", "from"],
      ["to=2026-02-30", "to"],
      ["from=2026-01-02&to=2026-01-01", "from"],
      ["to=2026-01-01T10:30:00Z", "to"],
      ["by=tenant", "by"],
      ["since=1", "parameters"],
    ]) {
      assert.throws(
        () => ask(book, query),
        (error) => error instanceof InvalidQuery && error.message.includes(name),
        query,
      );
    }
    for (const query of ["limit=1000", "cursor=-1", "key=x"]) {
      assert.throws(() => listEntries(book, new URLSearchParams(query), prices, NOW), InvalidQuery, query);
    }
  });

  test("entries are listed with what they saved", () => {
    const list = (query) => plain(listEntries(book, new URLSearchParams(query), prices, NOW));
    const { entries, cursor, total } = list("model=gpt-4o&namespace=");
    assert.deepEqual([cursor, total], [null, 1]);
    assert.deepEqual(entries, [
      {
        key: "k",
        provider: "openai",
        endpoint: "chat/completions",
        model: "gpt-4o",
        namespace: "",
        requests: 1,
        hits: 1,
        bytes: 1,
        tokens_saved: { input: 2, output: 1 },
        usd_saved: 3,
        seconds_saved: 2,
        stored_at: new Date(NOW - 60_000).toISOString(),
        last_used_at: new Date(NOW).toISOString(),
        expires_at: null,
      },
    ]);
    for (const found of [
      "model=gpt-*",
      "model=*&endpoint=chat*",
      "max_age=60",
      "min_age=60",
      "limit=1&provider=openai",
    ]) {
      assert.equal(list(found).total, 1, found);
    }
    for (const none of ["model=other", "model=gpt-", "model=GPT-*", "max_age=59", "min_age=61", "namespace=n"]) {
      assert.deepEqual(list(none).entries, [], none);
    }
  });
});
