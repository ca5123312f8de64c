// Conversions against the official accumulators: the object that we make of a stream is the one that the official
// client builds from the same bytes, and the stream that we make of an object gives the object back.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { send } from "../e2e/support/client.mjs";
import { startUpstream } from "../e2e/support/upstream.mjs";
import { ROOT, worker } from "../e2e/support/worker.mjs";
import * as accumulate from "./support/accumulators.mjs";
import { objects, streams } from "./support/generated.mjs";

const file = process.env.REPRISE_EXCHANGES ?? path.join(ROOT, "../shared/exchanges/exchanges.jsonl");
const recorded = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line)) : [];
if (recorded.length === 0) console.log(`No recorded exchanges at ${file}: the generated ones alone are tested.`);

const PROTOCOLS = {
  chat: {
    path: "/proxy/v1/chat/completions",
    holds: (exchange) => exchange.path.endsWith("/chat/completions"),
    question: { model: "m", messages: [{ role: "user", content: "Hi" }] },
    usage: { stream_options: { include_usage: true } },
    official: {
      "openai-node": {
        accumulate: accumulate.openaiChat,
        known: chatDifferences,
        // Mistral leaves out the `type` of tool calls.
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
    holds: (exchange) => exchange.path.endsWith("/responses"),
    question: { model: "m", input: "Hi" },
    official: { "openai-node": { accumulate: accumulate.openaiResponses, known: (object) => object } },
  },
  messages: {
    path: "/proxy/v1/messages",
    holds: (exchange) => exchange.path.endsWith("/messages"),
    question: { model: "m", max_tokens: 9, messages: [{ role: "user", content: "Hi" }] },
    official: { "anthropic-typescript": { accumulate: accumulate.anthropicMessages, known: (object) => object } },
  },
};

// Unavoidable differences; the README lists them with their reasons.
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
  proxy = await worker({ vars: { OPENAI_BASE_URL: upstream.origin } });
});
after(() => upstream.close());

let questions = 0;
// Asks a question nobody has asked before, first so that `answer` is stored, then in the other mode.
async function converted(protocol, answer, carriage, first) {
  upstream.reset();
  upstream.otherwise(answer);
  const ask = (extra) =>
    proxy.settled(() =>
      send(proxy.origin, {
        path: protocol.path,
        headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
        body: JSON.stringify({ ...protocol.question, user: `u${questions}`, ...extra }),
      }),
    );
  questions += 1;
  const stored = await ask(first);
  assert.equal(stored.headers["x-cache-status"], "MISS", stored.headers["cache-status"]);
  const reply = await ask(carriage);
  assert.equal(reply.headers["x-cache-status"], "HIT", reply.headers["cache-status"]);
  assert.equal(upstream.calls.length, 1);
  return reply;
}

// The accumulators to compare with: all of a protocol's, or the one that a case is good for.
const officials = (protocol, only) => Object.entries(protocol.official).filter(([name]) => only === undefined || name === only);

const isStream = (exchange) => exchange.content_type.includes("event-stream");
for (const [name, protocol] of Object.entries(PROTOCOLS)) {
  const mine = recorded.filter((exchange) => exchange.status === 200 && protocol.holds(exchange));
  const allStreams = [
    ...mine.filter(isStream).map((exchange) => [`recorded ${exchange.id}`, exchange.response]),
    ...(streams[name] ?? []),
  ];
  const allObjects = [
    ...mine.filter((exchange) => !isStream(exchange)).map((exchange) => [`recorded ${exchange.id}`, JSON.parse(exchange.response)]),
    ...(objects[name] ?? []),
  ];
  describe(`${name}: stream to object`, () => {
    for (const [title, bytes, { only } = {}] of allStreams) {
      test(title, async () => {
        const answer = { headers: { "content-type": "text/event-stream; charset=utf-8" }, body: bytes };
        const reply = await converted(protocol, answer, {}, { stream: true });
        const ours = JSON.parse(reply.body.toString());
        for (const [client, { accumulate, known }] of officials(protocol, only)) {
          assert.deepEqual(known(ours), known(await accumulate(bytes)), `against ${client}`);
        }
      });
    }
  });
  describe(`${name}: object to stream`, () => {
    for (const [title, object, { only } = {}] of allObjects) {
      test(title, async () => {
        const asked = object.usage && protocol.usage ? protocol.usage : {};
        const reply = await converted(protocol, { json: object }, { stream: true, ...asked }, {});
        assert.match(reply.headers["content-type"], /^text\/event-stream/);
        for (const [client, { accumulate, known, refuses }] of officials(protocol, only)) {
          if (refuses?.(object)) await assert.rejects(accumulate(reply.body));
          else assert.deepEqual(known(await accumulate(reply.body)), known(object), `through ${client}`);
        }
      });
    }
  });
}
