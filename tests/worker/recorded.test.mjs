// Real exchanges, recorded against a dozen providers. Each is sent twice, by the default route and by its provider's. All
// responses are byte-equal, and the upstream is called once wherever section 2 of the specification allows the response to be
// stored.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, describe, test } from "node:test";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { cacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ROOT } from "../../testkit/processes.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const file = process.env.REPRISE_EXCHANGES ?? path.join(ROOT, "../shared/exchanges/exchanges.jsonl");

// The cacheable endpoints of section 2, defined a second time and not taken from the product.
const CACHEABLE = [
  /\/(chat\/completions|completions|responses|embeddings|moderations|rerank)$/,
  /^\/v1\/messages(\/count_tokens)?$/,
  /:(generateContent|streamGenerateContent|embedContent|batchEmbedContents|countTokens)$/,
  /^\/v\d\/(chat|generate|embed|classify)$/,
];

// Why the specification forbids storing this response, or null where it allows it.
function reasonAgainst({ path: at, request, status, content_type: type, response }) {
  if (!CACHEABLE.some((pattern) => pattern.test(at))) return "the endpoint is not one that only computes";
  for (const field of ["conversation", "previous_response_id", "container"]) {
    if (request[field] !== undefined && request[field] !== null)
      return `the request names server-side state (${field})`;
  }
  if (request.background === true) return "the request names server-side state (background)";
  if (status < 200 || status > 299) return "the upstream responded with an error status";
  if (type.startsWith("text/event-stream")) return reasonAgainstStream(response);
  return reasonAgainstObject(JSON.parse(response), at, request);
}

function reasonAgainstObject(body, at, request) {
  if (body.error !== undefined && body.error !== null) return "the response carries an error";
  if (at.endsWith("/responses") && body.status !== "completed") return `the response is ${body.status}`;
  const ends = (body.choices ?? []).map((choice) => choice.finish_reason);
  // Section 17. None of the recorded requests is in JSON mode.
  const limited = (request.max_tokens ?? request.max_completion_tokens) !== undefined && !request.tools?.length;
  if (ends.includes("length") && !limited) return "the response ran out of tokens";
  return ends.some((end) => end === "content_filter" || end === "error") ? "a choice was filtered or failed" : null;
}

function reasonAgainstStream(text) {
  const data = text.split(/\r?\n/).flatMap((line) => (line.startsWith("data:") ? [line.slice(5).trim()] : []));
  const done = data.includes("[DONE]");
  const events = data.filter((item) => item !== "[DONE]").map((item) => JSON.parse(item));
  if (events.some((event) => event.type === "error" || (event.error ?? null) !== null))
    return "the stream carries an error";
  const ended = (event) =>
    ["message_stop", "response.completed", "message-end"].includes(event.type) ||
    (event.candidates ?? []).some((candidate) => candidate.finishReason !== undefined);
  if (!done && !events.some(ended)) return "the stream does not reach its terminal event";
  const ends = events.flatMap((event) => (event.choices ?? []).map((choice) => choice.finish_reason));
  return ends.some((end) => end === "content_filter" || end === "error") ? "a choice was filtered or failed" : null;
}

if (!existsSync(file)) {
  test("recorded exchanges are byte-equal and cached", { skip: `there is no ${file}: none was run` });
} else {
  const exchanges = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const upstream = await startUpstream();
  const outcomes = new Map(); // how an exchange ended → how often

  after(() => upstream.close());

  // The base path of each provider below the scripted upstream.
  const bases = Object.fromEntries(
    exchanges.map(({ provider }) => [provider, provider === "openrouter" ? "/api" : ""]),
  );
  const named = Object.fromEntries(Object.entries(bases).map(([name, base]) => [name, upstream.origin + base]));
  const routes = {
    "the default route": { vars: { OPENAI_BASE_URL: upstream.origin }, of: ({ path: at }) => `/proxy${at}` },
    "its provider's route": {
      vars: { UPSTREAMS: JSON.stringify(named) },
      of: ({ provider, path: at }) => `/${provider}${at.slice(bases[provider].length)}`,
    },
  };

  describe("recorded exchanges", () => {
    for (const exchange of exchanges) {
      test(`${exchange.id}: ${exchange.provider} ${exchange.path}`, async () => {
        const outcome = reasonAgainst(exchange) ?? "served from the cache the second time";
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        for (const route of Object.values(routes)) await twice(exchange, route);
      });
    }

    test("the exchanges are counted by the expected outcome", (t) => {
      for (const [outcome, count] of [...outcomes].sort((a, b) => b[1] - a[1])) {
        t.diagnostic(`${String(count).padStart(4)}  ${outcome}`);
      }
      assert.ok(exchanges.length > 0, `${file} is empty`);
      assert.equal(
        [...outcomes.values()].reduce((sum, count) => sum + count, 0),
        exchanges.length,
        "all were run",
      );
    });
  });

  async function twice(exchange, route) {
    const proxy = await worker({ vars: { ...route.vars, MAX_RETRIES: "0" } });
    await proxy.clear();
    upstream.reset();
    const query = exchange.query === "" ? "" : `?${exchange.query}`;
    const url = exchange.path + query;
    const request = Buffer.from(JSON.stringify(exchange.request));
    const response = Buffer.from(exchange.response);
    upstream.otherwise((call) => {
      assert.deepEqual([call.method, call.url], ["POST", url]);
      assert.ok(call.body.equals(request), "the upstream got another body");
      return { status: exchange.status, headers: { "content-type": exchange.content_type }, body: response };
    });
    const ask = async () => {
      const reply = await proxy.settled(() =>
        send(proxy.origin, {
          path: route.of(exchange) + query,
          headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
          body: request,
        }),
      );
      assert.equal(reply.status, exchange.status, reply.body.toString("utf8", 0, 300));
      assert.equal(reply.headers["content-type"], exchange.content_type);
      assertSameBytes(reply.body, response, "the response");
      cacheStatusOf(reply); // must be valid
      return reply.headers["cache-status"];
    };
    const reason = reasonAgainst(exchange);
    const statuses = [await ask(), await ask()];
    const calls = reason === null ? 1 : 2;
    assert.equal(upstream.calls.length, calls, `calls upstream; ${reason ?? "may be stored"}; ${statuses.join(" | ")}`);
  }
}
