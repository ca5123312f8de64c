// The periods that the page shows, and their buckets, all in UTC as the ledger counts.

/** @import { Row, Counts } from "./api.js" */

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/**
 * @typedef {object} Range
 * @property {string} id
 * @property {string} label
 * @property {string} name in a sentence: "in …"
 * @property {number} buckets
 * @property {number} bucketMs
 * @property {"hour" | "day"} unit of the ledger's rows
 */

/** @type {Range[]} */
export const RANGES = [
  { id: "24h", label: "24 hours", name: "the last 24 hours", buckets: 24, bucketMs: HOUR, unit: "hour" },
  { id: "7d", label: "7 days", name: "the last 7 days", buckets: 7, bucketMs: DAY, unit: "day" },
  { id: "30d", label: "30 days", name: "the last 30 days", buckets: 30, bucketMs: DAY, unit: "day" },
  { id: "1y", label: "1 year", name: "the last 52 weeks", buckets: 52, bucketMs: 7 * DAY, unit: "day" },
];

/** @param {string | null} id */
export const rangeOf = (id) => RANGES.find((range) => range.id === id) ?? RANGES[1];

/**
 * The first bucket's start and the last one's end, in milliseconds. The current hour or day is in the last bucket.
 *
 * @param {Range} range
 * @param {number} now
 */
export function bounds({ unit, buckets, bucketMs }, now) {
  const step = unit === "hour" ? HOUR : DAY;
  const end = (Math.floor(now / step) + 1) * step;
  return { start: end - buckets * bucketMs, end };
}

/** The parameters of the ledger. @param {number} start @param {number} end */
export const period = (start, end) => ({ from: rfc3339(start), to: rfc3339(end) });

/** @param {number} ms */
const rfc3339 = (ms) => new Date(ms).toISOString().replace(".000Z", "Z");

/**
 * The sums of a count for each outcome and bucket.
 *
 * @param {Range} range
 * @param {number} start
 * @param {Row[]} rows by hour or day and by outcome
 */
export function inBuckets({ unit, buckets, bucketMs }, start, rows) {
  /** @type {Map<string, number[]>} */
  const outcomes = new Map();
  for (const row of rows) {
    const time = row[unit];
    if (!time) continue;
    const at = Math.floor((Date.parse(unit === "day" ? `${time}T00:00:00Z` : time) - start) / bucketMs);
    if (!(at >= 0 && at < buckets)) continue;
    const outcome = (row.outcome ?? "NONE").toUpperCase();
    const sums = outcomes.get(outcome) ?? new Array(buckets).fill(0);
    sums[at] += row.requests;
    outcomes.set(outcome, sums);
  }
  return outcomes;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** The name of a bucket. @param {Range} range @param {number} start of the bucket, in milliseconds */
export function bucketName({ unit, bucketMs }, start) {
  const date = new Date(start);
  const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
  if (unit === "hour") return `${day}, ${String(date.getUTCHours()).padStart(2, "0")}:00`;
  return bucketMs > DAY ? `week from ${day}` : day;
}
