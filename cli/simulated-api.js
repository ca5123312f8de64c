// A simulated OpenAI API on this machine. No two of its responses are alike, so equal ones can only come from a cache.
import { once } from "node:events";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const USAGE = { prompt_tokens: 9, completion_tokens: 9, total_tokens: 18 };

/** @type {Record<string, (model: string, n: number) => object>} */
const RESPONSES = {
  "/v1/chat/completions": (model, n) => ({
    id: `chatcmpl-${n}`,
    object: "chat.completion",
    created: now(),
    model,
    choices: [
      { index: 0, message: { role: "assistant", content: `Hello! This is response ${n}.` }, finish_reason: "stop" },
    ],
    usage: USAGE,
  }),
  "/v1/completions": (model, n) => ({
    id: `cmpl-${n}`,
    object: "text_completion",
    created: now(),
    model,
    choices: [{ index: 0, text: `, in response ${n}, there was a cache.`, logprobs: null, finish_reason: "stop" }],
    usage: USAGE,
  }),
  "/v1/embeddings": (model, n) => ({
    object: "list",
    data: [{ object: "embedding", index: 0, embedding: [0.25, -0.5, n / 1024] }],
    model,
    usage: { prompt_tokens: 2, total_tokens: 2 },
  }),
  "/v1/moderations": (model, n) => ({
    id: `modr-${n}`,
    model,
    results: [{ flagged: false, categories: { violence: false }, category_scores: { violence: 0.001 } }],
  }),
};

const now = () => Math.floor(Date.now() / 1000);

/**
 * Starts the API: { origin, calls, stop }. `calls()`: the number of requests so far.
 *
 * @param {{ latencyMs: number }} options
 */
export async function startSimulatedApi({ latencyMs }) {
  let calls = 0;
  const server = http.createServer(async (request, response) => {
    calls += 1;
    const n = calls;
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    await sleep(latencyMs);
    const respond = RESPONSES[request.url ?? ""];
    const body = respond ? respond(JSON.parse(Buffer.concat(chunks).toString()).model, n) : { error: { message: "?" } };
    response.writeHead(respond ? 200 : 404, { "content-type": "application/json" });
    response.end(JSON.stringify(body));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    origin: `http://127.0.0.1:${port}`,
    calls: () => calls,
    async stop() {
      server.closeAllConnections?.();
      server.close();
      await once(server, "close");
    },
  };
}
