// The official openai-node client through Reprise: the base URL is the only change.
//
//   npm start                          (in another terminal)
//   OPENAI_API_KEY=… npx tsx samples/sample-usage.ts

import OpenAI from "openai";

const openai = new OpenAI({
  apiKey: process.env.OPENAI_API_KEY,
  baseURL: process.env.OPENAI_BASE_URL ?? "http://localhost:8787/proxy",
});

// With openai-node 3 it is:
//
//   import { Configuration, OpenAIApi } from "openai";
//   const openai = new OpenAIApi(new Configuration({ apiKey, basePath: "http://localhost:8787/proxy" }));
//   await openai.createChatCompletion(question);

const question: OpenAI.ChatCompletionCreateParamsNonStreaming = {
  model: "gpt-4o-mini",
  messages: [{ role: "user", content: "Write a haiku about computers." }],
};

async function ask(what: string, headers: Record<string, string> = {}) {
  const { data, response } = await openai.chat.completions.create(question, { headers }).withResponse();
  console.log(`${what}: ${response.headers.get("x-cache-status")} ${response.headers.get("cache-status")}`);
  console.log(data.choices[0].message.content);
}

// The first call goes to OpenAI, unless somebody with this key has asked before …
await ask("first");
// … and the second comes from the cache.
await ask("second");
// An answer that expires a day after it was stored: the lifetime belongs to the call that stores it.
await ask("refreshed, for a day", { "X-Proxy-Refresh": "true", "X-Proxy-TTL": String(24 * 60 * 60) });
