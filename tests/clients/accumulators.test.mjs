// Conversions against the official accumulators: a converted stream is the object that the official client builds from the same
// bytes, and a converted object, accumulated, is the object again.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ROOT } from "../../testkit/processes.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import * as accumulate from "./support/accumulators.mjs";
import { objects, streams } from "./support/generated.mjs";

const file = process.env.REPRISE_EXCHANGES ?? path.join(ROOT, "../shared/exchanges/exchanges.jsonl");
// The files of a recorded response have expired since, so the response would not be stored.
/** @param {any} exchange */
const unexpired = (exchange) => ({
  ...exchange,
  response: exchange.response.replace(/"expires_at": ?"[^"]*"/g, '"expires_at": "2100-01-01T00:00:00Z"'),
});
const recorded = existsSync(file)
  ? readFileSync(file, "utf8")
      .trim()
      .split("\n")
      .map((line) => unexpired(JSON.parse(line)))
  : [];
if (recorded.length === 0) console.log(`No recorded exchanges at ${file}: only the generated ones are tested.`);

const PROTOCOLS = {
  chat: {
    path: "/proxy/v1/chat/completions",
    matches: (exchange) => exchange.path.endsWith("/chat/completions"),
    request: { model: "m", messages: [{ role: "user", content: "Hi" }] },
    usage: { stream_options: { include_usage: true } },
    official: {
      "openai-node": {
        accumulate: accumulate.openaiChat,
        known: chatDifferences,
        // Mistral omits the `type` of tool calls.
        refuses: ({ choices }) => choices.some(({ message }) => message.tool_calls?.some((call) => !call.type)),
      },
      "openai-python": {
        accumulate: accumulate.openaiPythonChat,
        known: documented,
        refuses: ({ choices }) => choices.some(({ finish_reason }) => finish_reason === "length"),
      },
    },
  },
  responses: {
    path: "/proxy/v1/responses",
    matches: (exchange) => exchange.path.endsWith("/responses"),
    request: { model: "m", input: "Hi" },
    official: { "openai-node": { accumulate: accumulate.openaiResponses, known: (object) => object } },
  },
  messages: {
    path: "/proxy/v1/messages",
    matches: (exchange) => exchange.path.endsWith("/messages"),
    request: { model: "m", max_tokens: 9, messages: [{ role: "user", content: "Hi" }] },
    official: { "anthropic-typescript": { accumulate: accumulate.anthropicMessages, known: (object) => object } },
  },
};

// Unavoidable differences: the documentation lists them with their reasons.
function chatDifferences(object) {
  const copy = withoutNulls(object);
  for (const { message } of copy.choices) for (const call of message.tool_calls ?? []) delete call.index;
  return copy;
}

// openai-python drops fields that it does not know, joins those of OpenRouter's reasoning details into one, and repeats
// the role as often as it is sent.
function documented(object) {
  const { id, created, model, choices, usage } = chatDifferences(object);
  return {
    ...{ id, created, model, usage },
    choices: choices.map(({ index, message, logprobs, finish_reason }) => {
      const { role, tool_calls = [], reasoning_details: _, ...others } = message;
      assert.match(role, /^(assistant)+$/);
      return { index, message: { ...others, tool_calls }, logprobs, finish_reason };
    }),
  };
}

function withoutNulls(value) {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (value === null || typeof value !== "object") return value;
  const members = Object.entries(value).filter(([, inner]) => inner !== null);
  return Object.fromEntries(members.map(([name, inner]) => [name, withoutNulls(inner)]));
}

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  // Whatever they are worth: each response has to be stored, so that it can be converted.
  proxy = await worker({ vars: { OPENAI_BASE_URL: upstream.origin, CACHE_ADMISSION: "any" } });
});
after(() => upstream.close());

let requests = 0;
// Sends a new request so that `response` is stored, and then the same request in the other mode.
async function convert(protocol, response, mode, first) {
  upstream.reset();
  upstream.otherwise(response);
  const ask = (extra) =>
    proxy.settled(() =>
      send(proxy.origin, {
        path: protocol.path,
        headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
        body: JSON.stringify({ ...protocol.request, user: `u${requests}`, ...extra }),
      }),
    );
  requests += 1;
  const stored = await ask(first);
  assert.equal(xCacheStatusOf(stored), "MISS", stored.headers["cache-status"]);
  const reply = await ask(mode);
  assert.equal(xCacheStatusOf(reply), "HIT", reply.headers["cache-status"]);
  assert.equal(upstream.calls.length, 1);
  return reply;
}

// The accumulators to compare with: all of a protocol's, or the only one that supports a case.
const officials = (protocol, only) =>
  Object.entries(protocol.official).filter(([name]) => only === undefined || name === only);

const isStream = (exchange) => exchange.content_type.includes("event-stream");
for (const [name, protocol] of Object.entries(PROTOCOLS)) {
  const ownRecorded = recorded.filter((exchange) => exchange.status === 200 && protocol.matches(exchange));
  const allStreams = [
    ...ownRecorded.filter(isStream).map((exchange) => [`recorded ${exchange.id}`, exchange.response]),
    ...(streams[name] ?? []),
  ];
  const allObjects = [
    ...ownRecorded
      .filter((exchange) => !isStream(exchange))
      .map((exchange) => [`recorded ${exchange.id}`, JSON.parse(exchange.response)]),
    ...(objects[name] ?? []),
  ];
  describe(`${name}: stream to object`, () => {
    for (const [title, bytes, { only } = {}] of allStreams) {
      test(`${name}: the stream "${title}" becomes an object`, async () => {
        const response = { headers: { "content-type": "text/event-stream; charset=utf-8" }, body: bytes };
        const reply = await convert(protocol, response, {}, { stream: true });
        const ours = JSON.parse(reply.body.toString());
        for (const [client, { accumulate, known }] of officials(protocol, only)) {
          assert.deepEqual(known(ours), known(await accumulate(bytes)), `against ${client}`);
        }
      });
    }
  });
  describe(`${name}: object to stream`, () => {
    for (const [title, object, { only } = {}] of allObjects) {
      test(`${name}: the object "${title}" becomes a stream`, async () => {
        const usage = object.usage && protocol.usage ? protocol.usage : {};
        const reply = await convert(protocol, { json: object }, { stream: true, ...usage }, {});
        assert.match(reply.headers["content-type"], /^text\/event-stream/);
        for (const [client, { accumulate, known, refuses }] of officials(protocol, only)) {
          if (refuses?.(object)) await assert.rejects(accumulate(reply.body));
          else assert.deepEqual(known(await accumulate(reply.body)), known(object), `through ${client}`);
        }
      });
    }
  });
}
