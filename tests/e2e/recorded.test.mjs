// Real exchanges, recorded against a dozen providers, each sent through the proxy twice, by the default route and by its
// provider's: byte-equal every time, and no second call upstream wherever the contract's section 2 lets the answer be kept.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, describe, test } from "node:test";
import { send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { ROOT, worker } from "./support/worker.mjs";

const file = process.env.REPRISE_EXCHANGES ?? path.join(ROOT, "../shared/exchanges/exchanges.jsonl");

// The endpoints of section 2 that compute an answer, written down once more and not taken from the product.
const COMPUTES = [
  /\/(chat\/completions|completions|responses|embeddings|moderations|rerank)$/,
  /^\/v1\/messages(\/count_tokens)?$/,
  /:(generateContent|streamGenerateContent|embedContent|batchEmbedContents|countTokens)$/,
  /^\/v\d\/(chat|generate|embed|classify)$/,
];

// Why the contract does not let this answer be kept, or null where it does.
function reasonAgainst({ path: at, request, status, content_type: type, response }) {
  if (!COMPUTES.some((pattern) => pattern.test(at))) return "the endpoint is not one that only computes";
  for (const field of ["conversation", "previous_response_id", "container"]) {
    if (request[field] !== undefined && request[field] !== null)
      return `the request names server-side state (${field})`;
  }
  if (request.background === true) return "the request names server-side state (background)";
  if (status < 200 || status > 299) return "the upstream answered with an error status";
  if (type.startsWith("text/event-stream")) return reasonAgainstStream(response);
  return reasonAgainstObject(JSON.parse(response), at);
}

function reasonAgainstObject(answer, at) {
  if (answer.error !== undefined && answer.error !== null) return "the answer carries an error";
  if (at.endsWith("/responses") && answer.status !== "completed") return `the response is ${answer.status}`;
  const ends = (answer.choices ?? []).map((choice) => choice.finish_reason);
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
  test("recorded exchanges", (t) => {
    t.diagnostic(`the recorded exchanges are not at ${file}: NONE of them was run`);
  });
} else {
  const exchanges = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const upstream = await startUpstream();
  const outcomes = new Map(); // what became of an exchange → how often

  after(() => upstream.close());

  // Where each provider's paths begin, below the scripted upstream in the place of its host.
  const bases = Object.fromEntries(exchanges.map(({ provider }) => [provider, provider === "openrouter" ? "/api" : ""]));
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
        const outcome = reasonAgainst(exchange) ?? "answered from the cache the second time";
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        for (const route of Object.values(routes)) await twice(exchange, route);
      });
    }

    test("what was expected of them, by reason", (t) => {
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
    const question = Buffer.from(JSON.stringify(exchange.request));
    const answer = Buffer.from(exchange.response);
    upstream.otherwise((call) => {
      assert.deepEqual([call.method, call.url], ["POST", url]);
      assert.ok(call.body.equals(question), "the upstream got another question");
      return { status: exchange.status, headers: { "content-type": exchange.content_type }, body: answer };
    });
    const ask = async () => {
      const reply = await proxy.settled(() =>
        send(proxy.origin, {
          path: route.of(exchange) + query,
          headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
          body: question,
        }),
      );
      assert.equal(reply.status, exchange.status, reply.body.toString("utf8", 0, 300));
      assert.equal(reply.headers["content-type"], exchange.content_type);
      expect.sameBytes(reply.body, answer, "the answer");
      return reply.headers["cache-status"];
    };
    const reason = reasonAgainst(exchange);
    const said = [await ask(), await ask()];
    const calls = reason === null ? 1 : 2;
    assert.equal(upstream.calls.length, calls, `calls upstream; ${reason ?? "may be kept"}; ${said.join(" | ")}`);
  }
}
