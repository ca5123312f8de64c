import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { input, report } from "./client-input.mjs";

const { base, key, prompts, model, embedding, tool } = input;
const settings = { apiKey: key, maxRetries: 0, configuration: { baseURL: base } };
const chat = new ChatOpenAI({ model, ...settings });

await report({
  plain: async () => (await chat.invoke(prompts.plain)).content,
  stream: async () => {
    let text = "";
    for await (const chunk of await chat.stream(prompts.stream)) text += chunk.content;
    return text;
  },
  tools: async () => (await chat.bindTools([tool]).invoke(prompts.tools)).tool_calls[0].args,
  embeddings: async () => new OpenAIEmbeddings({ model: embedding, ...settings }).embedQuery(prompts.embeddings),
  error: async () => (await chat.invoke(prompts.error)).content,
});
