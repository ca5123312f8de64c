import { createOpenAI } from "@ai-sdk/openai";
import { embed, generateText, jsonSchema, streamText, tool as toolOf } from "ai";
import { input, report } from "./client-input.mjs";

const { base, key, prompts, model, embedding, tool } = input;
const openai = createOpenAI({ apiKey: key, baseURL: base });
const question = (prompt) => ({ model: openai.chat(model), prompt, maxRetries: 0 });
const tools = { f: toolOf({ description: "f", inputSchema: jsonSchema(tool.function.parameters) }) };

await report({
  plain: async () => (await generateText(question(prompts.plain))).text,
  stream: async () => streamText(question(prompts.stream)).text,
  tools: async () => (await generateText({ ...question(prompts.tools), tools })).toolCalls[0].input,
  embeddings: async () =>
    (await embed({ model: openai.embedding(embedding), value: prompts.embeddings, maxRetries: 0 })).embedding,
  error: async () => (await generateText(question(prompts.error))).text,
});
