// The official OpenAI clients, unmodified: only the base URL is changed.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import OpenAI from "openai";
import { Configuration, OpenAIApi } from "openai-v3";
import { decodeEntry } from "../../testkit/entry.mjs";
import { respondLikeOpenAI } from "../../testkit/providers.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
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

const chat = { model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] };
const completion = { model: "gpt-3.5-turbo-instruct", prompt: "Hi" };
const embedding = { model: "text-embedding-3-small", input: ["Hi", "Ho"] };
const moderation = { model: "omni-moderation-latest", input: "Hi" };

// Sends a request twice. `ask` returns [result, cache status].
async function twice(ask) {
  const [first, missed] = await proxy.settled(ask);
  assert.equal(missed, "MISS");
  const [second, hit] = await proxy.settled(ask);
  assert.equal(hit, "HIT");
  assert.deepEqual(second, first);
  assert.equal(upstream.calls.length, 1);
  return first;
}

describe("openai-node", () => {
  const client = () => new OpenAI({ apiKey: "sk-test", baseURL: `${proxy.origin}/proxy`, maxRetries: 0 });
  const ask = (call) =>
    twice(async () => {
      const { data, response } = await call(client()).withResponse();
      return [JSON.parse(JSON.stringify(data)), response.headers.get("x-cache-status")];
    });
  test("openai-node gets a chat completion from the cache", async () => {
    const response = await ask((openai) => openai.chat.completions.create(chat));
    assert.equal(response.choices[0].message.content, "Bits hum, and are still.");
  });
  test("openai-node gets a completion from the cache", () => ask((openai) => openai.completions.create(completion)));
  test("openai-node gets an embedding from the cache", async () => {
    const response = await ask((openai) => openai.embeddings.create(embedding));
    assert.deepEqual(
      response.data.map((item) => item.embedding),
      [
        [0.5, -0.25],
        [0.5, -0.25],
      ],
    );
  });
  test("openai-node gets a moderation from the cache", () => ask((openai) => openai.moderations.create(moderation)));
});

describe("openai-node 3, basePath", () => {
  const client = () => new OpenAIApi(new Configuration({ apiKey: "sk-test", basePath: `${proxy.origin}/proxy` }));
  const ask = (call) =>
    twice(async () => {
      const { data, headers } = await call(client());
      return [data, headers["x-cache-status"]];
    });
  test("openai-node 3 gets a chat completion from the cache", () => ask((openai) => openai.createChatCompletion(chat)));
  test("openai-node 3 gets a completion from the cache", () => ask((openai) => openai.createCompletion(completion)));
  test("openai-node 3 gets an embedding from the cache", () => ask((openai) => openai.createEmbedding(embedding)));
  test("openai-node 3 gets a moderation from the cache", () =>
    ask((openai) => openai.createModeration({ input: "Hi" })));
});

describe("openai-python", () => {
  for (const [name, call] of Object.entries({
    chat: `client.chat.completions.with_raw_response.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])`,
    completion: `client.completions.with_raw_response.create(model="gpt-3.5-turbo-instruct", prompt="Hi")`,
    embedding: `client.embeddings.with_raw_response.create(model="text-embedding-3-small", input=["Hi", "Ho"])`,
    moderation: `client.moderations.with_raw_response.create(model="omni-moderation-latest", input="Hi")`,
  })) {
    test(`openai-python gets a ${name} from the cache`, () =>
      twice(async () => {
        const program = `
from openai import OpenAI
client = OpenAI(api_key="sk-test", base_url="${proxy.origin}/proxy", max_retries=0)
response = ${call}
print(response.headers["x-cache-status"])
print(response.parse().to_json())`;
        const output = await runProgram("python", ["-c", program]);
        const [status, ...json] = output.split("\n");
        return [JSON.parse(json.join("\n")), status];
      }));
  }
});

describe("the samples", () => {
  for (const [program, file] of [
    ["node", "samples/sample-usage.ts"],
    ["python", "samples/sample_usage.py"],
    ["sh", "samples/sample-usage.sh"],
  ]) {
    test(`${file} gets its responses from the cache`, async () => {
      const before = proxy.lines.length;
      const env = { OPENAI_API_KEY: "sk-test", OPENAI_BASE_URL: `${proxy.origin}/proxy` };
      // The programs do not wait until the first response is stored, so the second request may miss: they run twice.
      await runProgram(program, [file], env);
      await proxy.logged(before + 3);
      const output = await runProgram(program, [file], env);
      const statuses = [...output.matchAll(/\b(HIT|MISS|REFRESH)\b/g)].map(([status]) => status);
      assert.deepEqual(statuses, ["HIT", "HIT", "REFRESH"], output);
      assert.match(output, /Bits hum, and are still\./);
      await proxy.logged(before + 6);
      const [[, bytes]] = await proxy.entries();
      const { head } = decodeEntry(bytes);
      assert.equal(head.expires_at - head.stored_at, 24 * 60 * 60 * 1000);
    });
  }
});
