// openai-node, the version of which is the first argument: openai or openai-v4.
import { input, report } from "./client-input.mjs";

const { default: OpenAI } = await import(process.argv[2]);
const { base, key, prompts, model, embedding, tool } = input;
const client = new OpenAI({ apiKey: key, baseURL: base, maxRetries: 0 });
const ask = (content, more) =>
  client.chat.completions.create({ model, messages: [{ role: "user", content }], ...more });

await report({
  plain: async () => (await ask(prompts.plain)).choices[0].message.content,
  stream: async () => {
    let text = "";
    for await (const chunk of await ask(prompts.stream, { stream: true }))
      text += chunk.choices[0]?.delta.content ?? "";
    return text;
  },
  tools: async () => (await ask(prompts.tools, { tools: [tool] })).choices[0].message.tool_calls[0].function,
  embeddings: async () =>
    (await client.embeddings.create({ model: embedding, input: prompts.embeddings })).data[0].embedding,
  error: async () => ask(prompts.error),
});
