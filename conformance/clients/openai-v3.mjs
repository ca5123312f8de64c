import { Configuration, OpenAIApi } from "openai-v3";
import { input, report } from "./client-input.mjs";

const { base, key, prompts, model, embedding, tool } = input;
/** @type {any} Its types know no streams and no tools. */
const client = new OpenAIApi(new Configuration({ apiKey: key, basePath: base }));
const ask = (content, more, options) =>
  client.createChatCompletion({ model, messages: [{ role: "user", content }], ...more }, options);

await report({
  plain: async () => (await ask(prompts.plain)).data.choices[0].message.content,
  stream: async () => {
    const { data } = await ask(prompts.stream, { stream: true }, { responseType: "stream" });
    let all = "";
    for await (const piece of data) all += piece;
    const chunks = all
      .split("\n\n")
      .filter((frame) => frame.startsWith("data: {"))
      .map((frame) => JSON.parse(frame.slice(6)));
    return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  },
  tools: async () => (await ask(prompts.tools, { tools: [tool] })).data.choices[0].message.tool_calls[0].function,
  embeddings: async () =>
    (await client.createEmbedding({ model: embedding, input: prompts.embeddings })).data.data[0].embedding,
  error: async () => (await ask(prompts.error)).data,
});
