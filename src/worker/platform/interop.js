// A request's or response's head crosses between JavaScript and wasm as one string: one call per header costs more than
// everything else about it. Each name and each value is on a line of its own, as neither can contain a line break.

/**
 * @param {unknown[]} lines
 * @param {Headers} headers
 */
function withHeaders(lines, headers) {
  // NUL is not allowed in a value, so wasm sees this one as invalid. A line break would make two lines of it.
  for (const [name, value] of headers) lines.push(name, value.includes("\n") ? "\0" : value);
  return lines.join("\n");
}

/**
 * The method, the URL and the headers.
 *
 * @param {Request} request
 */
export const encodeRequestHead = (request) => withHeaders([request.method, request.url], request.headers);

/**
 * The status and the headers.
 *
 * @param {Response} response
 */
export const encodeResponseHead = (response) => withHeaders([response.status], response.headers);

/**
 * @param {string} text
 * @returns {Generator<[string, string]>}
 */
function* headerPairs(text) {
  if (text === "") return;
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at += 2) yield [lines[at], lines[at + 1]];
}

/**
 * @param {Headers} headers
 * @param {"append" | "set"} method
 * @param {string} text
 */
function applyHeaders(headers, method, text) {
  for (const [name, value] of headerPairs(text)) {
    try {
      headers[method](name, value);
    } catch {
      // An invalid header, out of a damaged entry, is left out.
    }
  }
}

/** @param {string} text */
export function decodeHeaders(text) {
  const headers = new Headers();
  applyHeaders(headers, "append", text);
  return headers;
}

/**
 * Headers in which some values keep their bytes. The runtime reads values as UTF-8; only a copy of the original headers keeps
 * other bytes.
 *
 * @param {Headers} original
 * @param {string} kept Headers that keep their bytes, unless they have been changed since.
 * @param {string} others The other headers.
 */
export function headersWithOriginals(original, kept, others) {
  const values = new Map(headerPairs(kept));
  const headers = new Headers(original);
  for (const [name, value] of [...headers]) {
    if (values.get(name) !== value) headers.delete(name);
    else values.delete(name);
  }
  applyHeaders(headers, "append", others);
  for (const [name, value] of values) applyHeaders(headers, "append", `${name}\n${value}`);
  return headers;
}

/**
 * @param {BodyInit | null | undefined} body
 * @param {ResponseInit} init
 * @param {number} fallbackStatus The status of an empty response, if this one cannot be constructed.
 */
function responseOr(body, init, fallbackStatus) {
  try {
    return new Response(body, init);
  } catch {
    return new Response(null, { status: fallbackStatus });
  }
}

/**
 * A response with a head of our own.
 *
 * @param {number} status
 * @param {string} headers
 * @param {BodyInit | null | undefined} body
 */
export const createResponse = (status, headers, body) =>
  responseOr(body, { status, headers: decodeHeaders(headers) }, status);

/**
 * A response with another body, and with its headers changed.
 *
 * @param {Response} response
 * @param {BodyInit | null | undefined} body
 * @param {string} removed Names of headers to remove.
 * @param {string} set Headers to set.
 * @param {string} added Headers to append.
 */
export function rebuildResponse(response, body, removed, set, added) {
  const headers = new Headers(response.headers);
  if (removed !== "") for (const name of removed.split("\n")) headers.delete(name);
  applyHeaders(headers, "set", set);
  applyHeaders(headers, "append", added);
  /** @type {ResponseInit} */
  const init = { status: response.status, statusText: response.statusText, headers };
  // After 101 Switching Protocols the exchange goes on in this socket.
  if (response.webSocket) init.webSocket = response.webSocket;
  return responseOr(body, init, 502);
}

/**
 * The same body, and a promise of its end: it resolves when all bytes have been read, or the body has been aborted. The
 * runtime moves the bytes.
 *
 * @param {ReadableStream} body
 * @param {number | undefined} length In bytes, if it is known.
 */
export function trackEnd(body, length) {
  const { readable, writable } = length === undefined ? new IdentityTransformStream() : new FixedLengthStream(length);
  const ended = body.pipeTo(writable).catch(() => {});
  return { stream: readable, ended };
}
