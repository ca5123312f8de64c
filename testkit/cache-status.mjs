// `Cache-Status` (RFC 9211) and `X-Cache-*`, read with a parser of Structured Fields (RFC 9651): a field that is not valid is
// an error.

import assert from "node:assert/strict";
import { parseDictionary, parseItem, parseList, Token } from "structured-headers";
import { CACHE_NAME } from "./names.mjs";

const FORWARD_REASONS = ["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"];
const isInteger = (value) => Number.isInteger(value);
const isString = (value) => typeof value === "string";
const isToken = (value) => value instanceof Token;
const isFlag = (value) => typeof value === "boolean";

/** The parameters of RFC 9211, section 2, with the types that it demands. */
const PARAMETERS = {
  hit: isFlag,
  fwd: (value) => isToken(value) && FORWARD_REASONS.includes(value.toString()),
  "fwd-status": isInteger,
  ttl: isInteger,
  stored: isFlag,
  collapsed: isFlag,
  key: isString,
  detail: (value) => isString(value) || isToken(value),
};

/** `X-Cache-*` fields that are no single item. */
const PARSERS = { "x-cache-saved": parseDictionary, "x-cache-nearest": parseItem };
/** "3/5" is a string of two numbers, and by no grammar an item. */
const FRACTIONS = ["x-cache-sample", "x-cache-items"];

/** Our own member of a reply's `Cache-Status`: those of { hit, fwd, fwdStatus, ttl, stored, collapsed, key, detail } that it has. */
export function cacheStatusOf({ headers }) {
  const field = headers["cache-status"];
  assert.ok(field !== undefined, "the reply has no Cache-Status");
  const members = parsed("cache-status", field, parseList);
  const [name, parameters] = members[0] ?? [];
  assert.equal(name?.toString(), CACHE_NAME, `Cache-Status names another cache: ${field}`);
  for (const [parameter, value] of parameters) {
    const isValid = PARAMETERS[parameter];
    assert.ok(isValid !== undefined, `Cache-Status has an unknown parameter "${parameter}": ${field}`);
    assert.ok(isValid(value), `"${parameter}" of Cache-Status has the wrong type: ${field}`);
  }
  assert.ok(!(parameters.has("hit") && parameters.has("fwd")), `Cache-Status has both "hit" and "fwd": ${field}`);
  const camelCase = (parameter) => parameter.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
  const plain = (value) => (isToken(value) ? value.toString() : value);
  return Object.fromEntries([...parameters].map(([parameter, value]) => [camelCase(parameter), plain(value)]));
}

/** The `detail` of a reply's `Cache-Status`, or null where there is none. */
export const detailOf = (reply) => cacheStatusOf(reply).detail ?? null;

/** The key of the stored response that a reply's `Cache-Status` names. */
export function keyOf(reply) {
  const { key } = cacheStatusOf(reply);
  assert.match(key ?? "", /^[0-9a-f]{64}$/, `no key in: ${reply.headers["cache-status"]}`);
  return key;
}

/** `X-Cache-Status`, for example "HIT"; undefined where the reply has none. Any `Cache-Status` beside it must be valid. */
export function xCacheStatusOf(reply) {
  assertCacheFields(reply);
  const field = reply.headers["x-cache-status"];
  return field === undefined ? undefined : parsed("x-cache-status", field, parseItem)[0].toString();
}

/** Fails if `Cache-Status` or an `X-Cache-*` field of the reply is not valid. */
export function assertCacheFields({ headers }) {
  if (headers["cache-status"] !== undefined) cacheStatusOf({ headers });
  for (const [name, field] of Object.entries(headers)) {
    if (!name.startsWith("x-cache-")) continue;
    if (FRACTIONS.includes(name)) assert.match(field, /^\d+\/\d+$/, name);
    else parsed(name, field, PARSERS[name] ?? parseItem);
  }
}

function parsed(name, field, parse) {
  try {
    return parse(field);
  } catch (error) {
    return assert.fail(`${name} is not a valid structured field (${error.message}): ${field}`);
  }
}
