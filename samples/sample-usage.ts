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
//   await openai.createChatCompletion(request);

const request: OpenAI.ChatCompletionCreateParamsNonStreaming = {
  model: "gpt-4o-mini",
  messages: [{ role: "user", content: "Write a haiku about computers." }],
};

async function send(label: string, headers: Record<string, string> = {}) {
  const { data, response } = await openai.chat.completions.create(request, { headers }).withResponse();
  console.log(`${label}: ${response.headers.get("x-cache-status")} ${response.headers.get("cache-status")}`);
  console.log(data.choices[0].message.content);
}

// The first request goes to OpenAI, unless it was sent before with this key.
await send("first");
// The second is served from the cache.
await send("second");
// A new response that expires after a day. The request that stores a response determines its lifetime.
await send("refreshed, for a day", { "X-Proxy-Refresh": "true", "X-Proxy-TTL": String(24 * 60 * 60) });
