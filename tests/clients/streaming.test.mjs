// The official clients' streaming helpers, on misses and hits in both modes.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { respondLikeOpenAI } from "../../testkit/providers.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { plain } from "./support/accumulators.mjs";
import { runProgram } from "./support/programs.mjs";

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1` } });
});
beforeEach(async () => {
  await proxy.clear();
  upstream.reset();
  upstream.otherwise(respondLikeOpenAI);
});
after(() => upstream.close());

/** @type {any[]} */
const messages = [{ role: "user", content: "Hi" }];
const openai = () => new OpenAI({ apiKey: "sk-test", baseURL: `${proxy.origin}/proxy`, maxRetries: 0 });
const anthropic = () => new Anthropic({ apiKey: "sk-test", baseURL: proxy.origin, maxRetries: 0 });
const vercel = () => createOpenAI({ apiKey: "sk-test", baseURL: `${proxy.origin}/proxy` });

const python = (body) => async () => {
  const program = `
import json
from openai import OpenAI
client = OpenAI(api_key="sk-test", base_url="${proxy.origin}/proxy", max_retries=0)
request = dict(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
${body}`;
  return JSON.parse(await runProgram("python", ["-c", program]));
};

// Each helper returns the text, the finish reason and the usage.
const HELPERS = {
  "openai-node chat.completions.stream": {
    stream: async () => {
      const options = { stream_options: { include_usage: true } };
      return ofChat(
        await openai()
          .chat.completions.stream({ model: "gpt-4o", messages, ...options })
          .finalChatCompletion(),
      );
    },
    plain: async () => ofChat(await openai().chat.completions.create({ model: "gpt-4o", messages })),
  },
  "openai-node responses.stream": {
    stream: async () => plain(await openai().responses.stream({ model: "gpt-4o", input: "Hi" }).finalResponse()),
    plain: async () => plain(await openai().responses.create({ model: "gpt-4o", input: "Hi" })),
  },
  "openai-python stream": {
    stream: python(`
with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
    text = "".join(event.delta for event in stream if event.type == "content.delta")
    completion = stream.get_final_completion()
assert text == completion.choices[0].message.content
print(json.dumps([completion.id, text, completion.choices[0].finish_reason, completion.usage.total_tokens]))`),
    plain: python(`
completion = client.chat.completions.create(**request)
print(json.dumps([completion.id, completion.choices[0].message.content, completion.choices[0].finish_reason, completion.usage.total_tokens]))`),
  },
  "anthropic messages.stream": {
    stream: async () =>
      plain(await anthropic().messages.stream({ model: "claude", max_tokens: 9, messages }).finalMessage()),
    plain: async () => plain(await anthropic().messages.create({ model: "claude", max_tokens: 9, messages })),
  },
  "Vercel AI SDK streamText": {
    stream: async () => {
      const result = streamText({ model: vercel().chat("gpt-4o"), prompt: "Hi", maxRetries: 0 });
      const texts = [];
      for await (const text of result.textStream) texts.push(text);
      return [texts.join(""), await result.finishReason, (await result.usage).totalTokens];
    },
    plain: async () => {
      const result = await generateText({ model: vercel().chat("gpt-4o"), prompt: "Hi", maxRetries: 0 });
      return [result.text, result.finishReason, result.usage.totalTokens];
    },
  },
};

/** @param {any} completion */
function ofChat({ id, model, choices, usage }) {
  return plain({ id, model, text: choices[0].message.content, end: choices[0].finish_reason, usage });
}

for (const [name, helper] of Object.entries(HELPERS)) {
  describe(name, () => {
    for (const [first, second] of [
      ["stream", "stream"],
      ["plain", "stream"],
      ["stream", "plain"],
    ]) {
      test(`${name}: ${second} on a hit equals ${first} on the miss`, async () => {
        const missed = await proxy.settled(helper[first]);
        const repeated = await proxy.settled(helper[second]);
        assert.deepEqual(
          proxy.lines.slice(-2).map((line) => line.cache),
          ["MISS", "HIT"],
        );
        assert.equal(upstream.calls.length, 1);
        assert.deepEqual(repeated, missed);
      });
    }
  });
}
