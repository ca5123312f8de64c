// Assertions on what a client or the upstream received.

import assert from "node:assert/strict";

/** `expected`: name → exact value, null for absence, or { matches: "regular expression" }. */
export function assertHeaders(actual, expected, whose) {
  for (const [name, wanted] of Object.entries(expected)) {
    const got = actual[name.toLowerCase()]?.toString(); // Node gives set-cookie as a list
    if (wanted === null) assert.equal(got, undefined, `${whose} has the header ${name}`);
    else if (typeof wanted === "object")
      assert.match(got ?? "", new RegExp(wanted.matches), `${whose}'s header ${name}`);
    else assert.equal(got, wanted, `${whose}'s header ${name}`);
  }
}

/** Bytes against bytes. The message shows the first difference. */
export function assertSameBytes(actual, expected, what) {
  if (actual.equals(expected)) return;
  let at = 0;
  while (at < actual.length && actual[at] === expected[at]) at += 1;
  const near = (bytes) => JSON.stringify(bytes.toString("latin1", Math.max(0, at - 20), at + 60));
  assert.fail(
    `${what} differs at byte ${at} (${actual.length} bytes instead of ${expected.length}):\n` +
      `  got      …${near(actual)}\n  expected …${near(expected)}`,
  );
}

/** The reply must be an error of the proxy's own, with this code. */
export function assertProxyError(reply, code) {
  const text = reply.body.toString();
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    assert.fail(`no JSON error but: ${text.slice(0, 200)}`);
  }
  assert.deepEqual(Object.keys(parsed), ["error"]);
  const { message, type, param } = parsed.error;
  const got = JSON.stringify({ type, param, code: parsed.error.code });
  assert.deepEqual(parsed.error, { message, type: "proxy_error", code, param: null }, `got ${got}`);
  assert.ok(typeof message === "string" && message.length > 0, "the error has no message");
  assert.match(reply.headers["content-type"] ?? "", /^application\/json/);
}
