// What an operator asks the ledger for.
import { NAMES } from "./book.js";

const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;
const HOURS_OF_DAY = 24;
const DEFAULT_DAYS = 30;
const BY = ["hour", "day", ...NAMES];
const MAX_LIMIT = 200;
const DEFAULT_LIMIT = 50;
const MAX_CURSOR = 5_000;

/** A parameter that cannot be read. The message says what to do. */
export class InvalidQuery extends Error {}

/** @param {URLSearchParams} query @param {string[]} known */
function allowOnly(query, known) {
  const unknown = [...query.keys()].find((name) => !known.includes(name));
  if (unknown !== undefined) throw new InvalidQuery(`The parameters are ${known.join(", ")}.`);
}

/**
 * An hour in UTC as a number of hours since 1970. A day is its beginning, or with `isEnd` its end.
 *
 * @param {string} name
 * @param {string} text
 * @param {boolean} isEnd
 */
function hourOf(name, text, isEnd) {
  const isDay = /^\d{4}-\d{2}-\d{2}$/.test(text);
  const isTime = /^\d{4}-\d{2}-\d{2}T\d{2}:00(:00(\.0+)?)?Z$/.test(text);
  const hour = isDay || isTime ? Date.parse(isDay ? `${text}T00:00:00Z` : text) / HOUR_MS : Number.NaN;
  // JavaScript reads February 30 as March 2.
  if (Number.isNaN(hour) || timeText(hour).slice(0, 10) !== text.slice(0, 10)) {
    throw new InvalidQuery(
      `The parameter ${name} must be a day such as 2026-11-30, or an hour such as 2026-11-30T13:00Z.`,
    );
  }
  return isDay && isEnd ? hour + HOURS_OF_DAY : hour;
}

/** @param {number} hour */
export const timeText = (hour) => new Date(hour * HOUR_MS).toISOString().replace(".000Z", "Z");

/** @param {number} day */
export const dayText = (day) => new Date(day * DAY_MS).toISOString().slice(0, 10);

/**
 * The hours of a report, since 1970 and without the last, and what its rows are grouped by. A day given as `to` is included.
 *
 * @param {URLSearchParams} query
 * @param {number} now In milliseconds since 1970.
 */
export function reportQuery(query, now) {
  allowOnly(query, ["from", "to", "by"]);
  const [from, to] = [query.get("from"), query.get("to")];
  const tomorrow = (Math.floor(now / DAY_MS) + 1) * HOURS_OF_DAY;
  const toHour = to ? hourOf("to", to, true) : tomorrow;
  const fromHour = from ? hourOf("from", from, false) : toHour - DEFAULT_DAYS * HOURS_OF_DAY;
  if (fromHour >= toHour) throw new InvalidQuery("The parameter from must be before to.");
  const by = [...new Set((query.get("by") ?? "day").split(",").map((name) => name.trim()))].filter(
    (name) => name !== "",
  );
  if (by.some((name) => !BY.includes(name))) {
    throw new InvalidQuery(`The parameter by is a list of ${BY.join(", ")}.`);
  }
  return { from: from ?? timeText(fromHour), to: to ?? timeText(toHour), fromHour, toHour, by };
}

/** Which entries are listed. @param {URLSearchParams} query @param {number} now In milliseconds since 1970. */
export function entriesQuery(query, now) {
  const filters = ["provider", "endpoint", "model", "namespace"];
  allowOnly(query, [...filters, "max_age", "min_age", "cursor", "limit"]);
  /** @type {Record<string, string>} */
  const filter = {};
  for (const name of filters) {
    const value = query.get(name);
    // An empty namespace is one, too. Of the others an empty value means all.
    if (value !== null && (value !== "" || name === "namespace")) filter[name] = value;
  }
  /** @param {string} name @param {number} fallback @param {number} most */
  const number = (name, fallback, most) => {
    const text = query.get(name);
    if (text === null || text === "") return fallback;
    const value = Number(text);
    if (!/^\d+$/.test(text) || value > most)
      throw new InvalidQuery(`The parameter ${name} must be a number up to ${most}.`);
    return value;
  };
  const seconds = Math.floor(now / 1000);
  return {
    filter,
    storedFrom: (seconds - number("max_age", seconds, seconds)) * 1000,
    storedTo: (seconds - number("min_age", 0, seconds)) * 1000 + 999,
    offset: number("cursor", 0, MAX_CURSOR),
    limit: Math.max(1, number("limit", DEFAULT_LIMIT, MAX_LIMIT)),
  };
}
