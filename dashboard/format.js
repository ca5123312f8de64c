// Numbers and times as people read them, always with their unit.

const INTEGER = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const DOLLARS = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD" });
const WHOLE_DOLLARS = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 0 });
const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** The text in place of an unknown number. */
export const UNKNOWN = "–";

/** @typedef {number | null | undefined} Maybe */

/** @param {Maybe} n */
export const integer = (n) => (n == null ? UNKNOWN : INTEGER.format(n));

/** A large number in three digits, such as 9.12M. @param {Maybe} n */
export const compact = (n) => (n == null ? UNKNOWN : n < 10_000 ? INTEGER.format(n) : COMPACT.format(n));

/** @param {Maybe} usd */
export function dollars(usd) {
  if (usd == null) return UNKNOWN;
  const size = Math.abs(usd);
  if (size > 0 && size < 0.005) return usd < 0 ? "> –$0.01" : "< $0.01";
  return (size >= 10_000 ? WHOLE_DOLLARS : DOLLARS).format(usd);
}

/** @param {number} part @param {number} whole */
export function percent(part, whole) {
  if (!whole) return UNKNOWN;
  const value = (part / whole) * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return `${value >= 10 || value === 0 ? Math.round(value * 10) / 10 : value.toFixed(1)} %`;
}

/** @param {Maybe} bytes */
export function size(bytes) {
  if (bytes == null) return UNKNOWN;
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** A duration in its two largest units. @param {Maybe} seconds */
export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  const parts = /** @type {const} */ ([
    ["days", 86_400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ]);
  const first = parts.findIndex(([, length]) => total >= length);
  const [unit, length] = parts[first];
  const whole = Math.floor(total / length);
  const [nextUnit, nextLength] = parts[first + 1];
  const rest = Math.floor((total % length) / nextLength);
  const name = unit === "days" && whole === 1 ? "day" : unit;
  return rest === 0 || whole >= 100 ? `${INTEGER.format(whole)} ${name}` : `${whole} ${name} ${rest} ${nextUnit}`;
}

/** The time since an instant, or until it. @param {string | null | undefined} time @param {number} now in milliseconds */
export function age(time, now) {
  if (!time) return UNKNOWN;
  const seconds = Math.abs(now - Date.parse(time)) / 1000;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${INTEGER.format(Math.floor(seconds / 86_400))} days`;
}

/** An instant to the minute, in UTC. @param {string | number | null | undefined} time */
export function instant(time) {
  if (!time) return UNKNOWN;
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? UNKNOWN : `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** @param {number} n @param {string} one @param {string} [many] */
export const counted = (n, one, many = `${one}s`) => `${integer(n)} ${n === 1 ? one : many}`;
