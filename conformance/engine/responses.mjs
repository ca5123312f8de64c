// Builds the upstream's response to a call, as the testkit's upstream takes it.

import { parseJson } from "../../testkit/json.mjs";
import { apiAt, eventText, goodResponse } from "./api-fixtures.mjs";
import { withSet } from "./json-path.mjs";

const MARKER = /(cf[0-9a-f]{16})-response-(\d+)-/;
const LONG = "x".repeat(1_000_000);
const DELAY_MS = 400;

/** The text that marks the response to the n-th call of a case. Every gateway passes texts on. */
export const markerOf = (token, n) => `${token}-response-${n}-`;

/** The call that a response with this text belongs to: { token, n }, or undefined. */
export function callOfMarker(text) {
  const found = MARKER.exec(text);
  return found ? { token: found[1], n: Number(found[2]) } : undefined;
}

const hasBody = ({ json, body, base64, repeat, stream, error }) =>
  [json, body, base64, repeat, stream, error].some((one) => one !== undefined);

/** { status, headers, chunks } of a step's `response` to a call { n, url, body } of a script. */
export function contentOf(response, script, call) {
  const marker = markerOf(script.token, call.n);
  const fill = (text) => text.replaceAll("{marker}", marker).replaceAll("{call}", call.n).replaceAll("{long}", LONG);
  const described = hasBody(response) ? response : { ...script.defaultResponse, ...response };
  const { json, body, base64, repeat, stream, error } = described;

  let type = "application/json";
  let chunks;
  let streamed = stream !== undefined;
  if (json !== undefined) chunks = [fill(JSON.stringify(json))];
  else if (body !== undefined) chunks = [fill(body)];
  else if (base64 !== undefined) chunks = [Buffer.from(base64, "base64")];
  else if (repeat !== undefined)
    chunks = [fill(repeat.head ?? ""), repeat.unit.repeat(repeat.times), fill(repeat.tail ?? "")];
  else if (error !== undefined)
    chunks = [
      fill(JSON.stringify({ error: { message: `{marker}: ${error}`, type: error, code: error, param: null } })),
    ];
  else if (stream !== undefined) {
    type = "text/event-stream; charset=utf-8";
    chunks = stream.map((data) => fill(eventText(data)));
  } else {
    const good = goodResponse(apiAt(call.url), { marker, n: call.n, request: parseJson(call.body.toString()) ?? {} });
    type = good.type;
    streamed = good.events !== undefined;
    chunks = good.events ?? [good.body];
  }
  const { set, dropEvents, insertEvent, newline } = described;
  if (set) chunks = [JSON.stringify(withSet(JSON.parse(chunks.join("")), set, fill))];
  if (dropEvents) chunks = chunks.slice(0, -dropEvents);
  if (insertEvent) chunks.splice(insertEvent.at, 0, fill(insertEvent.text));
  if (newline) chunks = chunks.map((chunk) => chunk.replaceAll("\n", newline));

  const headers = { "content-type": type };
  for (const [name, value] of Object.entries(described.headers ?? {})) {
    headers[name.toLowerCase()] = Array.isArray(value) ? value.map(fill) : value === null ? null : fill(value);
  }
  return { status: described.status ?? 200, headers, chunks: chunks.map((chunk) => Buffer.from(chunk)), streamed };
}

/** The description that the testkit's upstream writes. */
export function describeResponse(response, script, call) {
  const { status, headers, chunks, streamed } = contentOf(response, script, call);
  const bytes = Buffer.concat(chunks);
  const chunked = streamed || response.chunked === true;
  const described = { status, headers, body: bytes, chunked };
  if (response.delay) described.hold = script.until(() => script.calls.length >= response.delay.untilCalls, DELAY_MS);
  if (response.reset) return { ...described, refuse: true };
  if (response.gzip) return { ...described, gzip: true };
  if (response.truncate !== undefined) {
    // The promised length shows that bytes are missing; without one, the missing last chunk does.
    if (!chunked) headers["content-length"] ??= String(bytes.length);
    return { ...described, truncate: Math.max(0, bytes.length - response.truncate) };
  }
  if (response.truncateSilently !== undefined) {
    return { ...described, truncateSilently: Math.max(0, bytes.length - response.truncateSilently) };
  }
  if (response.chunkBytes) return { ...described, chunks: slices(bytes, response.chunkBytes) };
  if (!response.awaitClient) return described;
  const marker = markerOf(script.token, call.n);
  const isFirstText = (text) => text.includes(marker) && !text.includes('"role":"assistant"');
  return {
    ...described,
    chunks,
    afterChunk: async (chunk) => {
      if (isFirstText(chunk.toString()))
        call.receivedInTime = await script.until(() => script.received?.includes(marker), 2000);
    },
  };
}

const slices = (bytes, length) =>
  Array.from({ length: Math.ceil(bytes.length / length) }, (_, i) => bytes.subarray(i * length, (i + 1) * length));
