// The providers' official clients, unmodified, each through its provider's route: only the base URL is changed.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { Mistral } from "@mistralai/mistralai";
import { CohereClientV2 } from "cohere-ai";
import Groq from "groq-sdk";
import OpenAI from "openai";
import { respondLikeProviders } from "../../testkit/providers.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { runProgram } from "./support/programs.mjs";

const NAMES = ["anthropic", "cohere", "google", "groq", "mistral", "openrouter"];

let upstream;
let proxy;
before(async () => {
  upstream = await startUpstream();
  const upstreams = Object.fromEntries(NAMES.map((name) => [name, `${upstream.origin}/${name}`]));
  proxy = await worker({ vars: { UPSTREAMS: JSON.stringify(upstreams) } });
});
beforeEach(async () => {
  await proxy.clear();
  upstream.reset();
  upstream.otherwise(respondLikeProviders);
});
after(() => upstream.close());

const TEXT = "Bits hum, and are still.";
/** @type {any[]} */
const messages = [{ role: "user", content: "Hi" }];
const to = (name) => `${proxy.origin}/${name}`;

/** @param {any} message */
const textOf = (message) => message.content[0].text;

async function joined(stream, textOf) {
  let text = "";
  for await (const chunk of stream) text += textOf(chunk) ?? "";
  return text;
}

const anthropic = () => new Anthropic({ apiKey: "k", baseURL: to("anthropic"), maxRetries: 0 });
const groq = () => new Groq({ apiKey: "k", baseURL: to("groq"), maxRetries: 0 });
const mistral = () => new Mistral({ apiKey: "k", serverURL: to("mistral"), retryConfig: { strategy: "none" } });
const cohere = () => new CohereClientV2({ token: "k", environment: to("cohere"), maxRetries: 0 });
const google = () => new GoogleGenAI({ apiKey: "k", httpOptions: { baseUrl: to("google") } });
const openrouter = () => new OpenAI({ apiKey: "k", baseURL: to("openrouter/v1"), maxRetries: 0 });

const python = (program) => async () => (await runProgram("python", ["-c", program(proxy.origin)])).trimEnd();

// Each returns the response's text. `paths`: the paths of its calls upstream.
const CLIENTS = {
  "Anthropic, TypeScript": {
    paths: ["/anthropic/v1/messages", "/anthropic/v1/messages"],
    plain: async () => textOf(await anthropic().messages.create({ model: "m", max_tokens: 9, messages })),
    stream: async () => anthropic().messages.stream({ model: "m", max_tokens: 9, messages }).finalText(),
  },
  "Anthropic, Python": {
    paths: ["/anthropic/v1/messages", "/anthropic/v1/messages"],
    plain: python(
      (origin) => `
from anthropic import Anthropic
client = Anthropic(api_key="k", base_url="${origin}/anthropic", max_retries=0)
print(client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]).content[0].text)`,
    ),
    stream: python(
      (origin) => `
from anthropic import Anthropic
client = Anthropic(api_key="k", base_url="${origin}/anthropic", max_retries=0)
with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as stream:
    print("".join(stream.text_stream))`,
    ),
  },
  "Groq, TypeScript": {
    paths: ["/groq/openai/v1/chat/completions", "/groq/openai/v1/chat/completions"],
    plain: async () => (await groq().chat.completions.create({ model: "m", messages })).choices[0].message.content,
    stream: async () =>
      joined(
        await groq().chat.completions.create({ model: "m", messages, stream: true }),
        (chunk) => chunk.choices[0]?.delta.content,
      ),
  },
  "Groq, Python": {
    paths: ["/groq/openai/v1/chat/completions", "/groq/openai/v1/chat/completions"],
    plain: python(
      (origin) => `
from groq import Groq
client = Groq(api_key="k", base_url="${origin}/groq", max_retries=0)
print(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}]).choices[0].message.content)`,
    ),
    stream: python(
      (origin) => `
from groq import Groq
client = Groq(api_key="k", base_url="${origin}/groq", max_retries=0)
stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream))`,
    ),
  },
  "Mistral, TypeScript": {
    paths: ["/mistral/v1/chat/completions", "/mistral/v1/chat/completions"],
    plain: async () => (await mistral().chat.complete({ model: "m", messages })).choices[0].message.content,
    stream: async () =>
      joined(await mistral().chat.stream({ model: "m", messages }), ({ data }) => data.choices[0].delta.content),
  },
  "Cohere, TypeScript": {
    paths: ["/cohere/v2/chat", "/cohere/v2/chat"],
    // Its streams send `Cache-Control: no-cache`, which does not refresh them.
    plain: async () => textOf((await cohere().chat({ model: "m", messages })).message),
    stream: async () =>
      joined(await cohere().chatStream({ model: "m", messages }), ({ delta }) => delta?.message?.content?.text),
  },
  "Google, TypeScript": {
    paths: [
      "/google/v1beta/models/gemini:generateContent",
      "/google/v1beta/models/gemini:streamGenerateContent?alt=sse",
    ],
    plain: async () => (await google().models.generateContent({ model: "gemini", contents: "Hi" })).text,
    stream: async () =>
      joined(await google().models.generateContentStream({ model: "gemini", contents: "Hi" }), ({ text }) => text),
  },
  "openai-node at OpenRouter": {
    paths: ["/openrouter/v1/chat/completions", "/openrouter/v1/chat/completions"],
    plain: async () =>
      (await openrouter().chat.completions.create({ model: "m", messages })).choices[0].message.content,
    stream: async () =>
      joined(
        await openrouter().chat.completions.create({ model: "m", messages, stream: true }),
        (chunk) => chunk.choices[0]?.delta.content,
      ),
  },
};

for (const [name, client] of Object.entries(CLIENTS)) {
  describe(name, () => {
    for (const [number, mode] of ["plain", "stream"].entries()) {
      test(`${name}: a repeated ${mode} request is served from the cache`, async () => {
        assert.equal(await proxy.settled(client[mode]), TEXT);
        assert.equal(upstream.last.url, client.paths[number]);
        assert.equal(await proxy.settled(client[mode]), TEXT);
        assert.equal(proxy.lines.at(-2).cache, "MISS");
        assert.equal(proxy.lines.at(-1).cache, "HIT");
        assert.equal(upstream.calls.length, 1);
      });
    }
    test(`${name}: a stream is served from a plain response`, async () => {
      assert.equal(await proxy.settled(client.plain), TEXT);
      assert.equal(await proxy.settled(client.stream), TEXT);
      assert.equal(proxy.lines.at(-1).cache, "HIT");
    });
  });
}
