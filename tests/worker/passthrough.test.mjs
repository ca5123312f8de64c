// Bypassing requests and responses are forwarded byte for byte and unbuffered, with the reason in Cache-Status.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { after, beforeEach, test } from "node:test";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readText, send } from "../../testkit/client.mjs";
import { chatEvent, chatRequest, DONE, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { deferred, waitFor, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const proxy = await worker({ vars: { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" } });
beforeEach(async () => {
  upstream.reset();
  await proxy.clear();
});

const KEY = { authorization: "Bearer sk-test" };
const JSON_BODY = { "content-type": "application/json" };
const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const chat = (fields = {}) => chatRequest("Hi", { model: "gpt-4o", ...fields });

/**
 * One bypassing request: the upstream gets its bytes, the client the upstream's, and the reply has a reason.
 *
 * @param {any} request
 * @param {any} [response]
 * @param {{ detail?: string }} [expected]
 */
async function assertPassesThrough(request, response = {}, { detail } = {}) {
  upstream.next(response);
  const reply = await proxy.settled(() => send(proxy.origin, { ...request, headers: { ...KEY, ...request.headers } }));
  assert.equal(upstream.calls.length, 1);
  const call = upstream.last;
  assert.equal(call.method, request.method ?? "POST");
  assert.equal(call.url, request.path.replace("/proxy", "/v1"));
  assert.equal(call.headers.authorization, KEY.authorization);
  assertSameBytes(
    await call.bodyReceived,
    Buffer.concat([request.body ?? []].flat().map((part) => Buffer.from(part))),
    "the body sent upstream",
  );
  assert.equal(reply.status, response.status ?? 200);
  assertSameBytes(
    reply.body,
    request.method === "HEAD" ? Buffer.alloc(0) : Buffer.from(response.body ?? ""),
    "the body of the response",
  );
  assert.equal(xCacheStatusOf(reply), "BYPASS");
  assert.equal(detailOf(reply), detail);
  return { call, reply };
}

function multipart(...parts) {
  const boundary = "----reprise-test-boundary";
  const head = (name, type) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="${name}.bin"\r\nContent-Type: ${type}\r\n\r\n`;
  const body = parts.flatMap(([name, type, bytes]) => [Buffer.from(head(name, type)), bytes, Buffer.from("\r\n")]);
  return {
    headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
    body: Buffer.concat([...body, Buffer.from(`--${boundary}--\r\n`)]),
  };
}

test("a multipart upload passes through", async () => {
  const form = multipart(["file", "audio/wav", ALL_BYTES], ["model", "text/plain", Buffer.from("whisper-1")]);
  const { call } = await assertPassesThrough(
    { path: "/proxy/audio/transcriptions", ...form },
    { body: '{ "text" : "Hallo" }\n' },
    { detail: "content-type" },
  );
  assert.equal(call.headers["content-type"], form.headers["content-type"]);
});

test("an upload of 20 MB keeps its length and every byte", async () => {
  const form = multipart(["file", "application/octet-stream", randomBytes(20 * 1024 * 1024)]);
  const { call } = await assertPassesThrough({ path: "/proxy/files", ...form }, {}, { detail: "content-type" });
  assert.equal(call.headers["content-length"], String(form.body.length));
  assert.equal(call.headers["transfer-encoding"], undefined);
});

test("a chunked upload passes through", async () => {
  const body = [ALL_BYTES, Buffer.alloc(70_000, "x"), Buffer.from("end")];
  await assertPassesThrough(
    { path: "/proxy/uploads/upload_1/parts", headers: { "content-type": "application/octet-stream" }, body },
    {},
    { detail: "content-type" },
  );
});

test("an upload reaches the upstream while the client is still sending", async () => {
  const response = controlledStream({ headers: { "content-type": "application/json" } });
  const first = deferred();
  upstream.next((call, res) => {
    // The scripted upstream collects the body by itself. The test only watches it arrive.
    res.req.once("data", first.resolve);
    return response.respond(call, res);
  });
  const { hostname, port } = new URL(proxy.origin);
  await proxy.settled(async () => {
    const req = http.request({
      hostname,
      port,
      method: "POST",
      path: "/proxy/files",
      headers: { ...KEY, "content-type": "application/octet-stream" },
    });
    const arrived = new Promise((resolve, reject) => req.once("response", resolve).once("error", reject));
    req.write("the first chunk");
    assert.equal((await withTimeout(first.promise, "the first chunk upstream")).toString(), "the first chunk");
    req.end("the second chunk");
    const call = await withTimeout(response.started, "the upstream's response");
    assert.equal((await call.bodyReceived).toString(), "the first chunkthe second chunk");
    await response.end();
    (await withTimeout(arrived, "the response")).resume();
  });
});

test("audio passes through byte for byte", async () => {
  const body = Buffer.concat(Array.from({ length: 400 }, () => ALL_BYTES));
  const { reply } = await assertPassesThrough(
    { method: "GET", path: "/proxy/files/file_1/content" },
    { headers: { "content-type": "audio/mpeg" }, body },
    { detail: "method" },
  );
  assert.equal(reply.headers["content-type"], "audio/mpeg");
  assert.equal(reply.headers["content-length"], String(body.length));
});

test("a GET passes through with its query", async () => {
  const list = '{\n  "object": "list",\n  "data": []\n}\n';
  const { call } = await assertPassesThrough(
    { method: "GET", path: "/proxy/files?purpose=fine-tune&limit=2&after=a%2Fb" },
    { body: list },
    { detail: "method" },
  );
  assert.equal(call.headers["content-type"], undefined);
  assert.equal(call.headers["content-length"], undefined);
});

test("HEAD keeps the headers and has no body", async () => {
  const { reply } = await assertPassesThrough(
    { method: "HEAD", path: "/proxy/models" },
    { headers: { "content-length": "1234", "x-request-id": "req_1" } },
    { detail: "method" },
  );
  assert.equal(reply.headers["x-request-id"], "req_1");
  assert.equal(reply.headers["content-length"], "1234");
});

test("DELETE with the response 204 passes through", async () => {
  await assertPassesThrough(
    { method: "DELETE", path: "/proxy/files/file_1" },
    { status: 204, headers: { "content-type": null } },
    { detail: "method" },
  );
});

test("DELETE with a body passes through", async () => {
  await assertPassesThrough(
    { method: "DELETE", path: "/proxy/things", headers: JSON_BODY, body: '{ "ids": [1] }' },
    {},
    { detail: "method" },
  );
});

test("OPTIONS gets the upstream's own CORS response", async () => {
  const cors = {
    "access-control-allow-origin": "https://app.example",
    "access-control-allow-methods": "POST",
    "content-type": null,
  };
  const { call, reply } = await assertPassesThrough(
    {
      method: "OPTIONS",
      path: "/proxy/chat/completions",
      headers: { origin: "https://app.example", "access-control-request-method": "POST" },
    },
    { status: 204, headers: cors },
    { detail: "method" },
  );
  assert.equal(call.headers.origin, "https://app.example");
  assert.equal(reply.headers["access-control-allow-origin"], "https://app.example");
});

test("304 to a conditional request passes through", async () => {
  const { call, reply } = await assertPassesThrough(
    { method: "GET", path: "/proxy/models", headers: { "if-none-match": '"v1"' } },
    { status: 304, headers: { etag: '"v1"', "content-type": null } },
    { detail: "method" },
  );
  assert.equal(call.headers["if-none-match"], '"v1"');
  assert.equal(reply.headers.etag, '"v1"');
});

for (const status of [301, 302, 303, 307, 308]) {
  test(`a ${status} is forwarded, not followed`, async () => {
    const location = `${upstream.origin}/v1/elsewhere`;
    const { reply } = await assertPassesThrough(
      { method: "GET", path: "/proxy/files/file_1/content" },
      { status, headers: { location }, body: "moved" },
      { detail: "method" },
    );
    assert.equal(reply.headers.location, "/proxy/elsewhere");
  });
}

for (const name of ["operation-location", "x-goog-upload-url", "x-next"]) {
  test(`an absolute URL of the upstream in ${name} leads to the proxy`, async () => {
    const { reply } = await assertPassesThrough(
      { method: "GET", path: "/proxy/files/file_1/content" },
      { headers: { [name]: `${upstream.origin}/v1/elsewhere?a=b` } },
      { detail: "method" },
    );
    assert.equal(reply.headers[name], `${proxy.origin}/proxy/elsewhere?a=b`);
  });
}

for (const [encoding, compress] of /** @type {any[][]} */ ([
  ["gzip", gzipSync],
  ["br", brotliCompressSync],
])) {
  test(`a ${encoding} response passes through unchanged`, async () => {
    const body = compress(Buffer.from(JSON.stringify({ data: "x".repeat(5000) })));
    const { call, reply } = await assertPassesThrough(
      { method: "GET", path: "/proxy/models", headers: { "accept-encoding": encoding } },
      { headers: { "content-encoding": encoding }, body },
      { detail: "method" },
    );
    assert.equal(call.headers["accept-encoding"], encoding);
    assert.equal(reply.headers["content-encoding"], encoding);
  });

  test(`a ${encoding} response that is stored reaches the client unchanged`, async () => {
    const body = compress(Buffer.from(resultText("zipped")));
    upstream.next({ headers: { "content-encoding": encoding }, body });
    const request = chat();
    request.headers["accept-encoding"] = encoding;
    const reply = await proxy.settled(() => send(proxy.origin, request));
    assert.equal(xCacheStatusOf(reply), "MISS");
    assert.equal(reply.headers["content-encoding"], encoding);
    assertSameBytes(reply.body, body, "the compressed response");
  });
}

test("the cookies of an upstream are not handed on", async () => {
  const { reply } = await assertPassesThrough(
    { method: "GET", path: "/proxy/models" },
    { headers: { "set-cookie": ["a=1; Path=/", "b=2; Expires=Wed, 21 Oct 2037 07:28:00 GMT"] } },
    { detail: "method" },
  );
  assert.equal(reply.headers["set-cookie"], undefined);
});

for (const status of [400, 401, 403, 404, 413, 429, 500, 503, 529]) {
  test(`an upstream's ${status} keeps its body and headers`, async () => {
    const body = `{ "error" : {"message":"n\\u00f6","type":"x","code":null,"param":null} }\n`;
    const { reply } = await assertPassesThrough(
      { path: "/proxy/files", headers: JSON_BODY, body: "{}" },
      { status, headers: { "x-request-id": "req_1", "retry-after": "7" }, body },
      { detail: "endpoint" },
    );
    assert.equal(reply.headers["x-request-id"], "req_1");
    assert.equal(reply.headers["retry-after"], "7");
  });
}

test("a WebSocket passes messages both ways", async () => {
  const { hostname, port } = new URL(proxy.origin);
  const req = http.request({
    hostname,
    port,
    path: "/v1/realtime?model=gpt-realtime",
    headers: {
      ...KEY,
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      "openai-beta": "realtime=v1",
    },
  });
  const upgraded = new Promise((resolve, reject) => {
    req.once("upgrade", (response, socket) => resolve({ response, socket }));
    req.once("response", (response) => reject(new Error(`no upgrade but ${response.statusCode}`)));
    req.once("error", reject);
  });
  req.end();
  const { response, socket } = await withTimeout(upgraded, "the upgrade");
  assert.equal(response.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455, section 1.3
  assert.equal(xCacheStatusOf(response), "BYPASS");
  assert.equal(detailOf(response), "method");
  assert.equal(upstream.last.url, "/v1/realtime?model=gpt-realtime");
  assert.equal(upstream.last.headers.authorization, KEY.authorization);
  assert.equal(upstream.last.headers["openai-beta"], "realtime=v1");

  let arrived = Buffer.alloc(0);
  let wake;
  socket.on("data", (data) => {
    arrived = Buffer.concat([arrived, data]);
    wake?.();
  });
  const receive = async (frame) => {
    while (arrived.length < frame.length) await withTimeout(new Promise((resolve) => (wake = resolve)), "a frame");
    assertSameBytes(arrived.subarray(0, frame.length), frame, "the frame");
    arrived = arrived.subarray(frame.length);
  };
  for (const [opcode, payload] of /** @type {any[][]} */ ([
    [1, Buffer.from('{"type":"response.create"}')],
    [2, ALL_BYTES.subarray(0, 100)],
    [1, Buffer.from("é 😀")],
  ])) {
    socket.write(maskedFrame(opcode, payload));
    await receive(Buffer.concat([Buffer.from([0x80 | opcode, payload.length]), payload]));
  }
  socket.destroy();
});

// A complete message as a client sends it: masked (RFC 6455, section 5.3).
function maskedFrame(opcode, payload) {
  const mask = Buffer.from([1, 2, 3, 4]);
  const masked = payload.map((byte, i) => byte ^ mask[i % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length]), mask, masked]);
}

// Each chunk must arrive while the upstream still holds back the next.
async function assertUnbuffered(request, stream, chunks) {
  upstream.next(stream.respond);
  await proxy.settled(async () => {
    const opening = open(proxy.origin, request);
    await withTimeout(stream.started, "the upstream to be called");
    const reply = await opening; // the head arrives before the first chunk is sent
    for (const chunk of chunks) {
      await stream.send(chunk);
      assert.equal(await readText(reply, chunk.length), chunk);
    }
    await stream.end();
    assert.equal(await reply.next(), null);
  });
}

const EVENTS = ["Hel", "lo"].map((content) => chatEvent({ content }));

test("a stream arrives event by event", async () => {
  await assertUnbuffered(chat({ stream: true }), controlledStream(), [...EVENTS, DONE]);
});

test("a stream arrives even in the middle of an event", async () => {
  await assertUnbuffered(chat({ stream: true }), controlledStream(), [
    'data: {"id":"c',
    'hatcmpl-1","choices":[]}\n',
    "\nda",
    "ta: [DONE]\n\n",
  ]);
});

test("a bypassing stream arrives event by event", async () => {
  await assertUnbuffered({ ...chat({ stream: true }), path: "/proxy/threads/runs" }, controlledStream(), EVENTS);
});

test("a plain response arrives chunk by chunk while it is captured for the store", async () => {
  const stream = controlledStream({ headers: { "content-type": "application/json" } });
  await assertUnbuffered(chat(), stream, ['{"choices":[', '{"text":"hi"}', "]}"]);
  const again = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(xCacheStatusOf(again), "HIT");
  assert.equal(again.body.toString(), '{"choices":[{"text":"hi"}]}');
});

test("if the client disconnects, the response is still read and stored", async () => {
  const stream = controlledStream({ headers: { "content-type": "application/json" } });
  upstream.next(stream.respond);
  await proxy.settled(async () => {
    const reply = await open(proxy.origin, chat());
    await stream.send(resultText("whole").slice(0, 6));
    await reply.next();
    reply.disconnect();
    await stream.send(resultText("whole").slice(6));
    await stream.end();
  });
  const again = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(xCacheStatusOf(again), "HIT", again.headers["cache-status"]);
  assert.equal(again.body.toString(), resultText("whole"));
  assert.equal(upstream.calls.length, 1);
});

test("if the client disconnects and the response is then truncated, nothing is stored", async () => {
  const stream = controlledStream({ headers: { "content-type": "application/json" } });
  upstream.next(stream.respond);
  await proxy.settled(async () => {
    const reply = await open(proxy.origin, chat());
    await stream.send('{"id":"broken"');
    await reply.next();
    reply.disconnect();
    stream.abort();
  });
  assert.deepEqual(await proxy.entries(), []);
});

test("if the client of a bypassing request disconnects, the upstream is disconnected", async () => {
  const stream = controlledStream();
  upstream.next(stream.respond);
  const reply = await open(proxy.origin, { ...chat({ stream: true }), path: "/proxy/threads/runs" });
  await stream.send("data: {}\n\n");
  await reply.next();
  const call = await stream.started;
  let closed = false;
  call.disconnected.then(() => (closed = true));
  reply.disconnect();
  // The runtime notices when it has something to forward.
  const sendMore = () => stream.send("data: {}\n\n").then(() => closed);
  await waitFor(sendMore, "the upstream's connection to be closed", { pollMs: 0 });
});

test("TARGET_BASE_URL is an alias of OPENAI_BASE_URL", async () => {
  const other = await worker({ vars: { TARGET_BASE_URL: `${upstream.origin}/other/v1` } });
  const reply = await other.settled(() => send(other.origin, chat()));
  assert.equal(reply.status, 200);
  assert.equal(upstream.last.url, "/other/v1/chat/completions");
});
