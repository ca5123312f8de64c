// What Upstash says to a GET: a value as bytes, null where there is none, undefined where it is not base64 and so not ours.
// The platform reads JSON and base64 several times faster than wasm, and the bytes stay its own. Throws where the answer
// is no answer, or longer than `limit`.
export async function found(response, limit) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of response.body ?? []) {
    text += decoder.decode(piece, { stream: true });
    if (text.length > limit) throw new Error("too long");
  }
  const { result, error } = JSON.parse(text);
  if (error !== undefined || (result !== null && typeof result !== "string")) throw new Error("refused");
  if (result === null) return null;
  try {
    return Uint8Array.fromBase64(result, { lastChunkHandling: "strict" });
  } catch {
    return undefined;
  }
}
