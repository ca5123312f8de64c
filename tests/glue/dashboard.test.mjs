// The functions of the dashboard that do not render.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, test } from "node:test";
import { age, compact, dollars, duration, percent, size } from "../../dashboard/format.js";
import { isSaved, OUTCOMES, outcomeOf } from "../../dashboard/outcomes.js";
import { bounds, bucketName, inBuckets, period, RANGES, rangeOf } from "../../dashboard/ranges.js";
import { NEW_KEY, REMEDIES, remedyOf, remedyOfDifference } from "../../dashboard/remedies.js";
import { page } from "../../scripts/dashboard.mjs";
import { ROOT } from "../../testkit/processes.mjs";

const source = (name) => readFileSync(path.join(ROOT, name), "utf8");

describe("the page", () => {
  test("is small, refers to nothing, and its policy has the hashes of what is in it", async () => {
    const { html, headers } = await page();
    assert.ok(Buffer.byteLength(html) <= 150_000);
    const markup = html.replace(/<(script|style)>[\s\S]*?<\/\1>/g, "<$1></$1>");
    assert.doesNotMatch(markup, /<(script|link|img|iframe)[^>]+(src|href)=["']?(?!["']?data:)/);
    assert.doesNotMatch(markup, /<[^>]+ (style|on\w+)=/);
    const policy = headers["content-security-policy"].split("; ");
    for (const directive of [
      "default-src 'none'",
      "connect-src 'self'",
      "frame-ancestors 'none'",
      "base-uri 'none'",
      "form-action 'none'",
    ]) {
      assert.ok(policy.includes(directive), directive);
    }
    assert.doesNotMatch(headers["content-security-policy"], /unsafe|\*|https?:/);
    for (const [tag, directive] of [
      ["script", "script-src"],
      ["style", "style-src"],
    ]) {
      const text = html.slice(html.indexOf(`<${tag}>`) + tag.length + 2, html.indexOf(`</${tag}>`));
      const digest = Buffer.from(await crypto.subtle.digest("SHA-256", Buffer.from(text))).toString("base64");
      assert.ok(policy.includes(`${directive} 'sha256-${digest}'`), directive);
    }
  });
});

describe("reasons", () => {
  test("each one that Cache-Status can have is explained", () => {
    const tokens = [...source("src/status/reason.rs").matchAll(/^ {4}\w+ = "([a-z-]+)",$/gm)].map(([, token]) => token);
    assert.ok(tokens.length > 30);
    assert.deepEqual(
      tokens.filter((token) => !(token in REMEDIES)),
      [],
    );
  });

  test("each setting that is named exists", () => {
    const specification = source("docs/specification.md");
    const remedies = [...Object.values(REMEDIES), ...DIFFERENCES.map(([difference]) => remedyOfDifference(difference))];
    for (const { set } of remedies) {
      const name = /^([A-Z_]+)=/.exec(set ?? "")?.[1];
      if (name) assert.ok(specification.includes(`\`${name}\``), name);
    }
  });

  test("a miss without a reason is a new request", () => {
    assert.equal(remedyOf(null, "MISS"), NEW_KEY);
    assert.equal(remedyOf(null, "EXPIRED"), REMEDIES.expired);
    assert.equal(remedyOf("never-heard-of").title, "never-heard-of");
  });
});

const DIFFERENCES = [
  ["user metadata;identity-only", "KEY_IGNORE=@identity"],
  ["headers.x-session", "KEY_IGNORE=header:x-session"],
  ["headers.a headers.b", "KEY_IGNORE=header:a,header:b"],
  ["temperature", "KEY_IGNORE=temperature"],
  ["seed temperature", "KEY_IGNORE=seed,temperature"],
  ["model", "CACHE_MATCH=chat"],
  ["store", "KEY_IGNORE=store"],
  ["messages[].content", undefined],
  ["system;volatile-time", undefined],
  ["tools[] system", undefined],
  ["headers.a messages[].content", undefined],
  ["many", undefined],
];

test("what to set follows from the parts that differ", () => {
  for (const [difference, set] of DIFFERENCES) assert.equal(remedyOfDifference(difference).set, set, difference);
  assert.deepEqual(remedyOfDifference("user metadata;identity-only").paths, ["user", "metadata"]);
});

test("every outcome of the cache is known, and those that saved a call are so marked", () => {
  const tokens = [...source("src/status/cache_status.rs").matchAll(/=> "([A-Z]+)"/g)].map(([, token]) => token);
  assert.ok(tokens.includes("HIT"));
  assert.deepEqual(
    tokens.filter((token) => outcomeOf(token) === undefined),
    [],
  );
  assert.deepEqual(
    OUTCOMES.filter(({ id }) => isSaved(id)).map(({ id }) => id),
    ["HIT", "COALESCED", "STALE", "UPDATING"],
  );
  assert.equal(outcomeOf(null)?.id, "NONE");
});

describe("periods", () => {
  const now = Date.parse("2026-11-24T21:40:00Z");

  test("end with the hour or the day that runs", () => {
    const of = (id) => {
      const { start, end } = bounds(rangeOf(id), now);
      return Object.values(period(start, end));
    };
    assert.deepEqual(of("24h"), ["2026-11-23T22:00:00Z", "2026-11-24T22:00:00Z"]);
    assert.deepEqual(of("7d"), ["2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z"]);
    assert.deepEqual(of("30d"), ["2026-10-26T00:00:00Z", "2026-11-25T00:00:00Z"]);
    assert.equal(rangeOf("nonsense").id, "7d");
  });

  test("have each row in one bucket, and none outside", () => {
    for (const range of RANGES) {
      const { start, end } = bounds(range, now);
      const step = range.unit === "hour" ? 3_600_000 : 86_400_000;
      const rows = [];
      for (let at = start - step; at <= end; at += step) {
        const time = new Date(at).toISOString();
        const name = range.unit === "hour" ? time.replace(":00.000Z", "Z") : time.slice(0, 10);
        rows.push(/** @type {any} */ ({ [range.unit]: name, outcome: "HIT", requests: 1 }));
      }
      const sums = inBuckets(range, start, rows).get("HIT") ?? [];
      assert.deepEqual(sums, new Array(range.buckets).fill(range.bucketMs / step), range.id);
    }
  });

  test("name their buckets", () => {
    const at = Date.parse("2026-11-24T07:00:00Z");
    assert.deepEqual(
      RANGES.map((range) => bucketName(range, at)),
      ["24 Nov, 07:00", "24 Nov", "24 Nov", "week from 24 Nov"],
    );
  });
});

describe("numbers have their unit", () => {
  test("money", () => {
    const cases = [
      [0, "$0.00"],
      [0.004, "< $0.01"],
      [41.274, "$41.27"],
      [1234.5, "$1,234.50"],
      [123_456.7, "$123,457"],
      [null, "–"],
    ];
    for (const [usd, text] of cases) assert.equal(dollars(/** @type {number} */ (usd)), text);
  });
  test("shares", () => {
    const cases = [
      [0, 10, "0 %"],
      [1, 3, "33.3 %"],
      [1, 20, "5.0 %"],
      [1, 5000, "< 0.1 %"],
      [4999, 5000, "> 99.9 %"],
      [5, 5, "100 %"],
      [0, 0, "–"],
    ];
    for (const [part, whole, text] of cases)
      assert.equal(percent(/** @type {number} */ (part), /** @type {number} */ (whole)), text);
  });
  test("durations", () => {
    const cases = [
      [0.38, "380 ms"],
      [2.24, "2.2 s"],
      [42, "42 s"],
      [60, "1 min"],
      [3599, "59 min 59 s"],
      [20_110, "5 h 35 min"],
      [90_000, "1 day 1 h"],
      [864_000, "10 days"],
    ];
    for (const [seconds, text] of cases) assert.equal(duration(/** @type {number} */ (seconds)), text);
  });
  test("sizes and large numbers", () => {
    assert.deepEqual([0, 999, 1000, 4_512, 1e6, 2.5e9].map(size), [
      "0 B",
      "999 B",
      "1.0 kB",
      "4.5 kB",
      "1.0 MB",
      "2.5 GB",
    ]);
    assert.deepEqual([0, 9_999, 31_297, 110_000_000].map(compact), ["0", "9,999", "31.3K", "110M"]);
  });
  test("ages", () => {
    const now = Date.parse("2026-11-24T21:40:00Z");
    const cases = [
      ["2026-11-24T21:39:30Z", "30 s"],
      ["2026-11-24T20:41:00Z", "59 min"],
      ["2026-11-23T20:40:00Z", "25 h"],
      ["2026-11-13T21:40:00Z", "11 days"],
    ];
    for (const [time, text] of cases) assert.equal(age(time, now), text);
  });
});
