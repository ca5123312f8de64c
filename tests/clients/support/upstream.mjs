// What OpenAI would say, as far as the official clients look at it.

const answers = {
  "/v1/chat/completions": ({ model }) => ({
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1700000000,
    model,
    choices: [{ index: 0, message: { role: "assistant", content: "Bits hum, and are still.", refusal: null }, logprobs: null, finish_reason: "stop" }],
    usage: { prompt_tokens: 9, completion_tokens: 6, total_tokens: 15 },
  }),
  "/v1/completions": ({ model }) => ({
    id: "cmpl-1",
    object: "text_completion",
    created: 1700000000,
    model,
    choices: [{ index: 0, text: "once", logprobs: null, finish_reason: "stop" }],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  }),
  "/v1/embeddings": ({ model, input, encoding_format }) => ({
    object: "list",
    model,
    data: [input].flat().map((_, index) => ({
      object: "embedding",
      index,
      embedding: encoding_format === "base64" ? Buffer.from(new Float32Array([0.5, -0.25]).buffer).toString("base64") : [0.5, -0.25],
    })),
    usage: { prompt_tokens: 1, total_tokens: 1 },
  }),
  "/v1/moderations": () => ({
    id: "modr-1",
    model: "omni-moderation-latest",
    results: [{ flagged: false, categories: { hate: false }, category_scores: { hate: 0.0001 }, category_applied_input_types: { hate: ["text"] } }],
  }),
};

// An answer for the scripted upstream, from what it was asked.
export function likeOpenAI(call) {
  const answer = answers[call.url];
  if (!answer) return { status: 404, json: { error: { message: `no ${call.url} here`, type: "invalid_request_error", code: null, param: null } } };
  return { headers: { "x-request-id": "req_1" }, json: answer(JSON.parse(call.body.toString())) };
}
