// What a client, or the upstream, got against what a case expects.

import assert from "node:assert/strict";

export function cacheStatus(reply) {
  return reply.headers["x-cache-status"];
}

// The `detail` parameter of Cache-Status (RFC 9211), or null where there is none.
export function detail(reply) {
  const field = reply.headers["cache-status"];
  assert.ok(field !== undefined, "the reply has no Cache-Status");
  assert.match(field, /^reprise(;|$)/, "Cache-Status names another cache");
  const found = /;\s*detail=("?)([A-Za-z0-9_.-]+)\1(?=;|$)/.exec(field);
  return found === null ? null : found[2];
}

// `expected`: name → exact value, null for absence, or { matches: "regular expression" }.
export function headers(actual, expected, whose) {
  for (const [name, wanted] of Object.entries(expected)) {
    const got = actual[name.toLowerCase()]?.toString(); // Node gives set-cookie as a list
    if (wanted === null) assert.equal(got, undefined, `${whose} has the header ${name}`);
    else if (typeof wanted === "object") assert.match(got ?? "", new RegExp(wanted.matches), `${whose}'s header ${name}`);
    else assert.equal(got, wanted, `${whose}'s header ${name}`);
  }
}

// Bytes against bytes, with a message a person can read.
export function sameBytes(actual, expected, what) {
  if (actual.equals(expected)) return;
  let at = 0;
  while (at < actual.length && actual[at] === expected[at]) at += 1;
  const near = (bytes) => JSON.stringify(bytes.toString("latin1", Math.max(0, at - 20), at + 60));
  assert.fail(
    `${what} differs at byte ${at} (${actual.length} bytes instead of ${expected.length}):\n` +
      `  got      …${near(actual)}\n  expected …${near(expected)}`,
  );
}

// The shape of an error that the proxy itself makes, with this code.
export function proxyError(reply, code) {
  const text = reply.body.toString();
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    assert.fail(`no JSON error but: ${text.slice(0, 200)}`);
  }
  assert.deepEqual(Object.keys(parsed), ["error"]);
  const { message, type, param } = parsed.error;
  assert.deepEqual(parsed.error, { message, type: "proxy_error", code, param: null }, `got ${JSON.stringify({ type, param, code: parsed.error.code })}`);
  assert.ok(typeof message === "string" && message.length > 0, "the error has no message");
  assert.match(reply.headers["content-type"] ?? "", /^application\/json/);
}
