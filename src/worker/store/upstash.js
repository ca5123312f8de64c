/**
 * Parses Upstash's response to a GET: the value; null if there is none; undefined if it is not base64, and so not an entry.
 * Throws if Upstash reports an error, or if the response is malformed or longer than `maxChars`.
 *
 * The Workers runtime decodes JSON and base64 several times faster than wasm, and the value need not be copied out of it.
 *
 * @param {Response} response
 * @param {number} maxChars
 */
export async function parseGet(response, maxChars) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > maxChars) throw new Error("The response is too long.");
  }
  const { result, error } = JSON.parse(text);
  if (error !== undefined || (result !== null && typeof result !== "string")) throw new Error("The command failed.");
  if (result === null) return null;
  try {
    return Uint8Array.fromBase64(result, { lastChunkHandling: "strict" });
  } catch {
    return undefined;
  }
}
