// Heads cross between wasm and the platform as one text each: a crossing for each header costs more than all else about it.
// In a text each name and each value has a line of its own; no header that is one has a line break in it.

function push(lines, headers) {
  // One that has is made unreadable rather than two.
  for (const [name, value] of headers) lines.push(name, value.includes("\n") ? "\0" : value);
  return lines.join("\n");
}

// The method, the URL and the headers.
export const requestText = (request) => push([request.method, request.url], request.headers);

// The status and the headers.
export const responseText = (response) => push([response.status], response.headers);

function* pairs(text) {
  if (text === "") return;
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at += 2) yield [lines[at], lines[at + 1]];
}

// Valid values came from headers; one that is not is left out rather than fatal.
function put(headers, how, text) {
  for (const [name, value] of pairs(text)) {
    try {
      headers[how](name, value);
    } catch {}
  }
}

export function headersOf(text) {
  const headers = new Headers();
  put(headers, "append", text);
  return headers;
}

function responseOf(body, init, instead) {
  try {
    return new Response(body, init);
  } catch {
    return new Response(null, { status: instead });
  }
}

// A response with a head of ours.
export const response = (status, headers, body) => responseOf(body, { status, headers: headersOf(headers) }, status);

// Another's answer with `body`, without the headers of these names, and with others put in their place or added.
export function rebuilt(answer, body, removed, set, added) {
  const headers = new Headers(answer.headers);
  if (removed !== "") for (const name of removed.split("\n")) headers.delete(name);
  put(headers, "set", set);
  put(headers, "append", added);
  const init = { status: answer.status, statusText: answer.statusText, headers };
  // A switched protocol (101) goes on in its socket.
  if (answer.webSocket) init.webSocket = answer.webSocket;
  return responseOf(body, init, 502);
}
