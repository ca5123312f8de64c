import Anthropic from "@anthropic-ai/sdk";
import { input, report } from "./client-input.mjs";

const { base, key, prompts, model, tool } = input;
/** @type {any} The union types of content blocks would need checks that say nothing here. */
const client = new Anthropic({ apiKey: key, baseURL: base.replace(/\/v1$/, ""), maxRetries: 0 });
const question = (content) => ({ model, max_tokens: 64, messages: [{ role: "user", content }] });

await report({
  plain: async () => (await client.messages.create(question(prompts.plain))).content[0].text,
  stream: async () => (await client.messages.stream(question(prompts.stream)).finalMessage()).content[0].text,
  tools: async () =>
    (
      await client.messages.create({
        ...question(prompts.tools),
        tools: [{ name: "f", input_schema: tool.function.parameters }],
      })
    ).content[0].input,
  error: async () => client.messages.create(question(prompts.error)),
});
