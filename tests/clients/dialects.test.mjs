// The examples in the documentation of other products, with the official client that they use. Only the base URL, the key and the
// model's name are changed: the headers are the examples' own.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import OpenAI from "openai";
import { respondLikeOpenAI } from "../../testkit/providers.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

let upstream;
let proxy;
let litellm;
before(async () => {
  upstream = await startUpstream();
  const vars = { OPENAI_BASE_URL: `${upstream.origin}/v1`, COALESCE_TTL: "60" };
  proxy = await worker({ vars });
  litellm = await worker({ vars: { ...vars, DIALECTS: "litellm" } });
});
beforeEach(() => {
  upstream.reset();
  upstream.otherwise(respondLikeOpenAI);
});
after(() => upstream.close());

let examples = 0; // every example has a prompt of its own
const chat = (fields = {}) => ({
  model: "gpt-4o-mini",
  messages: /** @type {any} */ ([{ role: "user", content: `Example ${(examples += 1)}` }]),
  ...fields,
});

/** @param {Record<string, string>} [defaultHeaders] */
const client = (defaultHeaders = {}, target = proxy) =>
  new OpenAI({ apiKey: "sk-test", baseURL: `${target.origin}/proxy`, maxRetries: 0, defaultHeaders });

/** The response's headers and how many calls have been made until then. */
async function ask(openai, body, options = {}, target = proxy) {
  const { response } = await target.settled(() => openai.chat.completions.create(body, options).withResponse());
  return { headers: response.headers, calls: upstream.count };
}

/** Sends an example twice: a miss and a hit, in the words of `name`. */
async function missAndHit(openai, body, options, name, words = ["MISS", "HIT"]) {
  const replies = [await ask(openai, body, options), await ask(openai, body, options)];
  assert.deepEqual(
    replies.map(({ headers }) => headers.get(name)),
    words,
  );
  assert.equal(upstream.count, 1);
  const sent = Object.keys(upstream.last.headers);
  for (const header of Object.keys({ ...options?.headers }))
    if (header.toLowerCase() !== "cache-control") assert.ok(!sent.includes(header.toLowerCase()), header);
}

describe("Helicone", () => {
  test("Quick Start", () =>
    missAndHit(client(), chat(), { headers: { "Helicone-Cache-Enabled": "true" } }, "helicone-cache"));
  test("Development Testing: headers of the client", () =>
    missAndHit(
      client({ "Helicone-Cache-Enabled": "true", "Cache-Control": "max-age=86400" }),
      chat(),
      undefined,
      "helicone-cache",
    ));
  test("Combined with Provider Caching", async () => {
    const headers = {
      "Helicone-Cache-Enabled": "true",
      "Helicone-Cache-Ignore-Keys": "prompt_cache_key",
      "Cache-Control": "max-age=3600",
    };
    const body = chat();
    await ask(client(), { ...body, prompt_cache_key: "doc-analysis-1" }, { headers });
    const { headers: second, calls } = await ask(
      client(),
      { ...body, prompt_cache_key: "doc-analysis-2" },
      { headers },
    );
    assert.equal(second.get("helicone-cache"), "HIT");
    assert.equal(calls, 1);
  });
  test("User-Specific Caching", async () => {
    const body = chat();
    const as = (user) => ({
      headers: { "Helicone-Cache-Enabled": "true", "Helicone-Cache-Seed": user, "Cache-Control": "max-age=3600" },
    });
    await ask(client(), body, as("user-123"));
    assert.equal((await ask(client(), body, as("user-456"))).headers.get("helicone-cache"), "MISS");
    assert.equal((await ask(client(), body, as("user-123"))).headers.get("helicone-cache"), "HIT");
  });
  test("Cache Buckets: three misses, and then hits", async () => {
    const body = chat();
    const headers = { "Helicone-Cache-Enabled": "true", "Helicone-Cache-Bucket-Max-Size": "3" };
    const words = [];
    for (let n = 0; n < 4; n += 1) words.push((await ask(client(), body, { headers })).headers.get("helicone-cache"));
    assert.deepEqual(words, ["MISS", "MISS", "MISS", "HIT"]);
  });
});

test("Cloudflare AI Gateway: Cache TTL", () =>
  missAndHit(client(), chat(), { headers: { "cf-aig-cache-ttl": "3600" } }, "cf-aig-cache-status"));
test("Cloudflare AI Gateway: Custom cache key", () =>
  missAndHit(client(), chat(), { headers: { "cf-aig-cache-key": "responseA" } }, "cf-aig-cache-status"));
test("Cloudflare AI Gateway: Skip cache", async () => {
  const body = chat();
  const headers = { "cf-aig-skip-cache": "true" };
  await ask(client(), body, { headers });
  assert.equal((await ask(client(), body, { headers })).headers.get("cf-aig-cache-status"), "MISS");
  assert.equal(upstream.count, 2);
});

test("OpenRouter: Per-Request via Headers", () =>
  missAndHit(client(), chat(), { headers: { "X-OpenRouter-Cache": "true" } }, "x-openrouter-cache-status"));
test("OpenRouter: a lifetime and a refresh", async () => {
  const body = chat();
  const headers = { "X-OpenRouter-Cache": "true", "X-OpenRouter-Cache-TTL": "600" };
  assert.equal((await ask(client(), body, { headers })).headers.get("x-openrouter-cache-ttl"), "600");
  await ask(client(), body, { headers: { ...headers, "X-OpenRouter-Cache-Clear": "true" } });
  assert.equal(upstream.count, 2);
});

test("Portkey: Force Refresh", async () => {
  const body = chat();
  const config = JSON.stringify({ cache: { mode: "simple", max_age: 60 } });
  const headers = { "x-portkey-api-key": "pk", "x-portkey-config": config };
  assert.equal((await ask(client(), body, { headers })).headers.get("x-portkey-cache-status"), "MISS");
  assert.equal((await ask(client(), body, { headers })).headers.get("x-portkey-cache-status"), "HIT");
  const refreshed = await ask(client(), body, { headers: { ...headers, "x-portkey-cache-force-refresh": "true" } });
  assert.equal(refreshed.headers.get("x-portkey-cache-status"), "REFRESH");
});
test("Portkey: Cache Namespace", () =>
  missAndHit(client(), chat(), { headers: { "x-portkey-cache-namespace": "user-123" } }, "x-portkey-cache-status"));

for (const mode of ["true", "readWrite"])
  test(`OpenPipe: op-cache: ${mode}`, () =>
    missAndHit(client(), chat(), { headers: { "op-cache": mode } }, "wandb-cache-status", ["miss", "hit"]));
test("Weights & Biases: wandb-cache-mode: readWrite", () =>
  missAndHit(client(), chat(), { headers: { "wandb-cache-mode": "readWrite" } }, "wandb-cache-status", [
    "miss",
    "hit",
  ]));

test("Braintrust: a seed makes a request repeatable", () =>
  missAndHit(client({ "x-bt-use-cache": "auto" }), chat({ seed: 1 }), undefined, "x-bt-cached"));
test("Braintrust: always, with a lifetime", () =>
  missAndHit(
    client(),
    chat(),
    { headers: { "x-bt-use-cache": "always", "x-bt-cache-ttl": "1209600" } },
    "x-bt-cached",
  ));

for (const cache of [{ ttl: 300 }, { "s-maxage": 600 }, { namespace: "my-custom-namespace" }])
  test(`LiteLLM: ${JSON.stringify(cache)}`, async () => {
    const body = { ...chat(), cache };
    await ask(client({}, litellm), body, {}, litellm);
    assert.equal(JSON.parse(upstream.last.body.toString()).cache, undefined);
    const { headers, calls } = await ask(client({}, litellm), body, {}, litellm);
    assert.match(headers.get("x-litellm-cache-key"), /^[0-9a-f]{64}$/);
    assert.equal(calls, 1);
  });
for (const cache of [{ "no-cache": true }, { "no-store": true }])
  test(`LiteLLM: ${JSON.stringify(cache)}`, async () => {
    const body = { ...chat(), cache };
    await ask(client({}, litellm), body, {}, litellm);
    await ask(client({}, litellm), body, {}, litellm);
    assert.equal(upstream.count, 2);
  });
