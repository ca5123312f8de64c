// The log has one line of JSON per request. No credential, prompt or response is in it, or elsewhere in the Worker's output.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { send } from "../../testkit/client.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM, resultText } from "../../testkit/fixtures.mjs";
import { LOG } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
const chat = (more = {}) => ({ ...chatRequest("Hi", { model: "gpt-4o" }), ...more });

test("a log line describes the request and its response", async () => {
  const proxy = await worker({ vars: VARS });
  const body = resultText("answer");
  const length = Buffer.byteLength(body);
  upstream.next({ body });
  await proxy.settled(() => send(proxy.origin, chat()));
  await proxy.settled(() => send(proxy.origin, chat()));
  await proxy.settled(() => send(proxy.origin, { method: "GET", path: "/proxy/models", headers: {} }));
  const [miss, hit, bypass] = proxy.lines;

  for (const line of proxy.lines) {
    for (const field of [
      "method",
      "route",
      "provider",
      "model",
      "status",
      "cache",
      "reason",
      "key",
      "ms",
      LOG.upstreamMs,
      "bytes",
    ]) {
      assert.ok(field in line, `${field} is missing in ${JSON.stringify(line)}`);
    }
    assert.ok(Number.isInteger(line.ms) && line.ms >= 0);
  }
  const { method, model, status, cache, bytes } = miss;
  assert.deepEqual(
    { method, model, status, cache, bytes },
    { method: "POST", model: "gpt-4o", status: 200, cache: "MISS", bytes: length },
  );
  assert.match(miss.key, /^[0-9a-f]{12}$/);
  assert.ok(Number.isInteger(miss[LOG.upstreamMs]));
  assert.deepEqual([hit.cache, hit.key, hit.bytes, hit[LOG.upstreamMs]], ["HIT", miss.key, length, null]);
  assert.deepEqual([bypass.method, bypass.cache, bypass.reason, bypass.key], ["GET", "BYPASS", "method", null]);
});

for (const debug of ["false", "true"]) {
  test(`with DEBUG=${debug} no credential, prompt or response is logged`, async () => {
    const proxy = await worker({ vars: { ...VARS, DEBUG: debug } });
    const secret = (() => {
      let n = 0;
      return (kind) => `geheim-${kind}-${(n += 1)}`;
    })();
    const headers = () => ({
      "content-type": "application/json",
      authorization: `Bearer ${secret("authorization")}`,
      "x-api-key": secret("x-api-key"),
      "api-key": secret("api-key"),
      "x-goog-api-key": secret("x-goog-api-key"),
      cookie: secret("cookie"),
      "openai-organization": secret("organization"),
      "x-proxy-namespace": secret("namespace"),
    });
    const body = () =>
      JSON.stringify({
        model: "gpt-4o",
        user: secret("user"),
        messages: [{ role: "user", content: secret("prompt") }],
      });
    const stream = chatEvent({ content: secret("stream") }, "stop") + DONE;
    const exchanges = /** @type {any[][]} */ ([
      [
        chat({ headers: headers(), body: body() }),
        {
          json: { choices: [{ message: { content: secret("answer") } }] },
          headers: { "set-cookie": secret("set-cookie") },
        },
      ],
      [
        chat({ headers: headers(), body: body() }),
        { status: 401, json: { error: { message: `Incorrect API key: ${secret("error")}` } } },
      ],
      [chat({ headers: headers(), body: `{"prompt":"${secret("invalid")}"` })],
      [chat({ headers: { ...headers(), "x-proxy-ttl": secret("ttl") }, body: body() })],
      [
        chat({ headers: headers(), body: JSON.stringify({ ...JSON.parse(body()), stream: true }) }),
        { headers: EVENT_STREAM, body: stream },
      ],
      [{ method: "GET", path: `/proxy/models?key=${secret("query-key")}&q=${secret("query")}`, headers: headers() }],
      [{ method: "GET", path: "/nowhere", headers: headers() }],
      [
        {
          ...chat({ headers: headers(), body: body() }),
          path: `/proxy/v1beta/models/m:generateContent?key=${secret("google-key")}`,
        },
        { body: `not json: ${secret("broken-answer")}` },
      ],
    ]);
    for (const [request, response] of exchanges) {
      upstream.reset();
      if (response !== undefined) upstream.next(response);
      await proxy.settled(() => send(proxy.origin, request));
    }
    upstream.reset();
    await upstream.stopListening();
    await proxy.settled(() => send(proxy.origin, chat({ headers: headers(), body: body() })));
    await upstream.listen();

    assert.equal(proxy.lines.length, exchanges.length + 1, "one line per request");
    assert.doesNotMatch(proxy.output, /geheim/);
  });
}

test("a configuration error names the variable and not its value", async () => {
  const proxy = await worker({
    vars: { ...VARS, PROXY_TOKENS: "geheim-token", OPENAI_API_KEY: "geheim-key", CACHE_TTL: "geheim-ttl" },
  });
  const reply = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(reply.status, 500);
  assert.match(JSON.parse(reply.body.toString()).error.message, /CACHE_TTL|PROXY_TOKENS|OPENAI_API_KEY/);
  assert.doesNotMatch(reply.body.toString() + JSON.stringify(reply.rawHeaders) + proxy.output, /geheim/);
});
