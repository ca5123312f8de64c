// Malformed and very large input. The Worker serves or refuses it, does not panic, and serves the next ordinary request.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send, sendRaw } from "../../testkit/client.mjs";
import { chatRequest, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" } });

const MB = 1_000_000;
const chat = (body, headers = {}) => send(proxy.origin, { ...chatRequest("", { headers }), body });
const withMessages = (value) =>
  Buffer.concat([Buffer.from('{"model":"m","messages":'), Buffer.from(value), Buffer.from("}")]);

// An ordinary request is a miss, and its repeat a hit.
let ordinary = 0;
let checked = 0; // how much of the Worker's output has been checked
async function assertStillWorks() {
  upstream.reset();
  ordinary += 1;
  const { body } = chatRequest(`ordinary request ${ordinary}`);
  upstream.next({ json: result(`ordinary response ${ordinary}`) });
  for (const status of ["MISS", "HIT"]) {
    const reply = await proxy.settled(() => chat(body));
    assert.equal(reply.status, 200);
    assert.equal(xCacheStatusOf(reply), status);
    assert.equal(reply.body.toString(), resultText(`ordinary response ${ordinary}`));
  }
  assert.equal(upstream.calls.length, 1);
  const output = proxy.output.slice(checked);
  checked = proxy.output.length;
  assert.doesNotMatch(output, /panicked|unreachable|RuntimeError|Uncaught/i);
}

// Valid JSON objects: the upstream gets the client's bytes.
const nested = (open, close, depth) => withMessages(open.repeat(depth) + close.repeat(depth));
const filled = (bytes, unit, head = "[", tail = "]", last = "0") =>
  withMessages(head + unit.repeat(Math.floor(bytes / unit.length)) + last + tail);
const valid = {
  "arrays 10,000 deep": nested("[", "]", 10_000),
  "arrays 100,000 deep": nested("[", "]", 100_000),
  "arrays 1,000,000 deep": nested("[", "]", 1_000_000),
  "objects 10,000 deep": withMessages(`${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`),
  "objects 100,000 deep": withMessages(`${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`),
  "a schema 10,000 deep": Buffer.from(
    `{"model":"m","messages":[],"response_format":{"type":"json_schema","json_schema":{"schema":${'{"items":'.repeat(10_000)}{}${"}".repeat(10_000)}}}}`,
  ),
  "10 MB in one string": filled(10 * MB, "x", '["', '"]', "x"),
  "10 MB of escapes": filled(10 * MB, "\\u00e9", '["', '"]', "x"),
  "10 MB of numbers": filled(10 * MB, "1.25,"),
  "10 MB of empty objects": filled(10 * MB, "{},"),
  "10 MB of empty strings": filled(10 * MB, '"",'),
  "10 MB of white space": filled(10 * MB, " \n\t\r"),
  "10 MB of keys": withMessages(
    `{${Array.from({ length: 500_000 }, (_, i) => `"key${String(i).padStart(8, "0")}":0`).join(",")}}`,
  ),
  "10 MB of keys in reverse order": withMessages(
    `{${Array.from({ length: 500_000 }, (_, i) => `"key${String(500_000 - i).padStart(8, "0")}":0`).join(",")}}`,
  ),
  "10 MB of one key over and over": filled(10 * MB, '"k":0,', "{", "}", '"k":0'),
  "10 MB of messages": withMessages(
    `[${Array.from({ length: 200_000 }, (_, i) => `{"role":"user","content":"number ${i}"}`).join(",")}]`,
  ),
  "a number of 100,000 digits": withMessages(`1${"0".repeat(100_000)}`),
  "a fraction of 100,000 digits": withMessages(`0.${"1".repeat(100_000)}`),
  "exponents out of range": withMessages("[1e999999999,-1e999999999,1e-999999999]"),
  "lone surrogates": withMessages('["\\ud800","\\udfff","\\ud83d\\ud83d","\\ude00\\ud83d"]'),
  "a lone surrogate in a key": withMessages('{"\\ud800":1,"\\udbff":2}'),
  "escaped NUL bytes": withMessages('["\\u0000","a\\u0000b"]'),
  "an empty key": withMessages('{"":{"":{"":null}}}'),
  "keys that mean something to JavaScript": withMessages('{"__proto__":{"a":1},"constructor":null,"toString":"x"}'),
  "every control character, escaped": withMessages(
    JSON.stringify(String.fromCharCode(...Array.from({ length: 32 }, (_, i) => i))),
  ),
  "characters at the edges of UTF-8": withMessages(JSON.stringify("\u007f\u0080\u07ff\u0800\uffff\u{10000}\u{10ffff}")),
  "fields of the wrong type": Buffer.from(
    '{"model":{},"messages":"x","stream":"no","stream_options":[],"tools":{"function":1},"response_format":[1],"text":0,"user":null}',
  ),
};
for (const [name, body] of Object.entries(valid)) {
  test(`valid: ${name}`, async () => {
    upstream.reset();
    const reply = await proxy.settled(() => chat(body));
    assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
    assert.equal(upstream.calls.length, 1);
    assertSameBytes(upstream.last.body, body, "the body sent upstream");
    await assertStillWorks();
  });
}

const invalid = {
  "brackets 100,000 deep, never closed": "[".repeat(100_000),
  "objects 100,000 deep, never closed": '{"a":'.repeat(100_000),
  "closing brackets only": "]".repeat(100_000),
  "a string that never ends": `{"a":"${"x".repeat(MB)}`,
  "an escape at the end": '{"a":"\\',
  "half an escape": '{"a":"\\u12',
  "an unknown escape": '{"a":"\\x41"}',
  "a NUL byte": '{"a":"\0"}',
  "a NUL byte between tokens": '{\0"a":1}',
  "NUL bytes only": Buffer.alloc(1000),
  "invalid UTF-8 in a string": Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xc3, 0x28, 0x22, 0x7d]),
  "an overlong encoding": Buffer.from([0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d]),
  "a surrogate in UTF-8": Buffer.from([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d]),
  "half a character at the end": Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xf0, 0x9f]),
  "UTF-16": Buffer.from('{"a":1}', "utf16le"),
  "random bytes": Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919 + 13) % 256)),
  "a minus alone": '{"a":-}',
  "a plus": '{"a":+1}',
  "a dot without digits": '{"a":1.}',
  "an exponent without digits": '{"a":1e}',
  "a comment": '{"a":1/*x*/}',
  "a key without quotes": "{a:1}",
  "a missing colon": '{"a" 1}',
  "a missing comma": '{"a":1 "b":2}',
  "a mismatched bracket": '{"a":[1}',
};
for (const [name, body] of Object.entries(invalid)) {
  test(`invalid: ${name}`, async () => {
    upstream.reset();
    const reply = await proxy.settled(() => chat(body));
    assert.equal(reply.status, 400);
    assertProxyError(reply, "invalid_json");
    assert.equal(upstream.calls.length, 0);
    await assertStillWorks();
  });
}

// Header fields that the runtime accepts must not make the Worker fail.
const BIG = "x".repeat(64 * 1024);
const headers = {
  "a header of 32 KB": { "x-long": BIG.slice(0, 32 * 1024) },
  "a namespace of 8 KB": { "x-proxy-namespace": BIG.slice(0, 8192) },
  "a list of 2,000 ignored fields": { "x-proxy-ignore": Array.from({ length: 2000 }, (_, i) => `f${i}`).join(",") },
  "2,000 directives": { "cache-control": "x=1,".repeat(2000) },
  "broken directives": { "cache-control": ',,=,max-age="5,;no-cach e, =no-store' },
  "bytes outside ASCII": { "x-title": "caf\u00e9\u00ff", authorization: "Bearer \u00fe\u00ff" },
  "an empty namespace and list": { "x-proxy-namespace": "", "x-proxy-ignore": ", ,", "cache-control": "" },
  "200 headers": Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`x-header-${i}`, "v"])),
};
for (const [name, added] of Object.entries(headers)) {
  test(`headers: ${name}`, async () => {
    upstream.reset();
    const reply = await proxy.settled(() => chat(withMessages(JSON.stringify(name)), added));
    assert.equal(reply.status, 200, reply.body.toString("utf8", 0, 300));
    await assertStillWorks();
  });
}

// Raw bytes that no library would send. A response, a refusal or a closed connection are right, a failure is not. The runtime
// refuses unknown methods with 501.
const start = (line, more = "") => `${line}\r\nHost: x\r\nConnection: close\r\n${more}\r\n`;
const wire = {
  "an unknown method": start("FROB /proxy/models HTTP/1.1"),
  "a method in lower case": start("get /proxy/models HTTP/1.1"),
  TRACE: start("TRACE /proxy/models HTTP/1.1"),
  "an asterisk for a path": start("OPTIONS * HTTP/1.1"),
  "an absolute URL for a path": start("GET http://evil.example/proxy/models HTTP/1.1"),
  "a path of 15 KB": start(`GET /proxy/${"a".repeat(15_000)} HTTP/1.1`),
  "a query of 15 KB": start(`GET /proxy/models?${"a=b&".repeat(3750)} HTTP/1.1`),
  "many slashes": start("GET //proxy///models// HTTP/1.1"),
  "broken percent-encoding": start("GET /proxy/%/%z/%zz/%e9/%c0%af HTTP/1.1"),
  "an encoded NUL": start("GET /proxy/%00 HTTP/1.1"),
  "a raw NUL": start("GET /proxy/\0 HTTP/1.1"),
  "bytes outside ASCII in the path": Buffer.from(start("GET /proxy/\xff\xfe HTTP/1.1"), "latin1"),
  backslashes: start("GET /proxy/..\\..\\x HTTP/1.1"),
  "a prefix and nothing else": start("POST /proxy HTTP/1.1", "Content-Length: 0\r\n"),
  "a prefix and a slash": start("GET /proxy/ HTTP/1.1"),
  "headers of 64 KB": start("GET /proxy/models HTTP/1.1", `X-Long: ${BIG}\r\n`),
  "headers of 1 MB": start("GET /proxy/models HTTP/1.1", `X-Long: ${BIG}\r\n`.repeat(16)),
  "a TTL that is sent twice": `${start(
    "POST /proxy/chat/completions HTTP/1.1",
    "Content-Type: application/json\r\nX-Proxy-TTL: 1\r\nX-Proxy-TTL: 2\r\nContent-Length: 2\r\n",
  )}{}`,
  "two content types": `${start(
    "POST /proxy/chat/completions HTTP/1.1",
    "Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
  )}{}`,
  "invalid chunks":
    start("POST /proxy/chat/completions HTTP/1.1", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n") +
    "zz\r\n",
  "HTTP/0.9": "GET /proxy/models\r\n\r\n",
  TLS: Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x0d, 0x0a, 0x0d, 0x0a]),
};
for (const [name, bytes] of Object.entries(wire)) {
  test(`on the wire: ${name}`, async () => {
    upstream.reset();
    const before = proxy.lines.length;
    const reply = (await sendRaw(proxy.origin, bytes)).toString("latin1");
    assert.doesNotMatch(reply, /^HTTP\/1\.1 5(?!01)/);
    // Every request that the upstream got has been logged: this one cannot affect the next.
    await proxy.logged(before + upstream.calls.length);
    await assertStillWorks();
  });
}

test("a body that is truncated", async () => {
  const head = start(
    "POST /proxy/chat/completions HTTP/1.1",
    "Content-Type: application/json\r\nContent-Length: 100\r\n",
  );
  await sendRaw(proxy.origin, `${head}{"model":"m"`, { endWrite: true });
  await assertStillWorks();
});
