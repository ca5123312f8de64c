// What the cache does not keep passes through as if nobody stood in between: byte for byte, unbuffered, and with
// the reason in Cache-Status.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { after, beforeEach, test } from "node:test";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { open, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

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
const QUESTION = { model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] };
const chat = (more = {}) => ({
  path: "/proxy/chat/completions",
  headers: { ...KEY, ...JSON_BODY },
  body: JSON.stringify({ ...QUESTION, ...more }),
});

// One request past the cache: the upstream must get its bytes, the client the upstream's, and every reply a reason.
async function passes(request, answer = {}, { detail } = {}) {
  upstream.next(answer);
  const reply = await proxy.settled(() =>
    send(proxy.origin, { ...request, headers: { ...KEY, ...request.headers } }),
  );
  assert.equal(upstream.calls.length, 1);
  const call = upstream.last;
  assert.equal(call.method, request.method ?? "POST");
  assert.equal(call.url, request.path.replace("/proxy", "/v1"));
  assert.equal(call.headers.authorization, KEY.authorization);
  expect.sameBytes(
    await call.whole,
    Buffer.concat([request.body ?? []].flat().map((part) => Buffer.from(part))),
    "the body sent upstream",
  );
  assert.equal(reply.status, answer.status ?? 200);
  expect.sameBytes(
    reply.body,
    request.method === "HEAD" ? Buffer.alloc(0) : Buffer.from(answer.body ?? ""),
    "the body of the answer",
  );
  assert.equal(expect.cacheStatus(reply), "BYPASS");
  assert.equal(expect.detail(reply), detail);
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

test("a multipart upload", async () => {
  const form = multipart(["file", "audio/wav", ALL_BYTES], ["model", "text/plain", Buffer.from("whisper-1")]);
  const { call } = await passes(
    { path: "/proxy/audio/transcriptions", ...form },
    { body: '{ "text" : "Hallo" }\n' },
    { detail: "content-type" },
  );
  assert.equal(call.headers["content-type"], form.headers["content-type"]);
});

test("an upload of 20 MB keeps its length and every byte", async () => {
  const form = multipart(["file", "application/octet-stream", randomBytes(20 * 1024 * 1024)]);
  const { call } = await passes({ path: "/proxy/files", ...form }, {}, { detail: "content-type" });
  assert.equal(call.headers["content-length"], String(form.body.length));
  assert.equal(call.headers["transfer-encoding"], undefined);
});

test("a chunked upload", async () => {
  const body = [ALL_BYTES, Buffer.alloc(70_000, "x"), Buffer.from("end")];
  await passes(
    { path: "/proxy/uploads/upload_1/parts", headers: { "content-type": "application/octet-stream" }, body },
    {},
    { detail: "content-type" },
  );
});

test("an upload reaches the upstream while the client is still sending", async () => {
  const answered = commandedStream({ headers: { "content-type": "application/json" } });
  let first;
  const firstPiece = new Promise((resolve) => (first = resolve));
  upstream.next((call, res) => {
    // The scripted upstream gathers the body by itself; here the test only wants to see it arrive.
    res.req.once("data", first);
    return answered.answer(call, res);
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
    const response = new Promise((resolve, reject) => req.once("response", resolve).once("error", reject));
    req.write("the first piece");
    assert.equal((await within(firstPiece, "the first piece upstream")).toString(), "the first piece");
    req.end("the second piece");
    const call = await within(answered.begun, "the upstream's answer");
    assert.equal((await call.whole).toString(), "the first piecethe second piece");
    await answered.end();
    (await within(response, "the answer")).resume();
  });
});

test("audio comes back byte for byte", async () => {
  const body = Buffer.concat(Array.from({ length: 400 }, () => ALL_BYTES));
  const { reply } = await passes(
    { method: "GET", path: "/proxy/files/file_1/content" },
    { headers: { "content-type": "audio/mpeg" }, body },
    { detail: "method" },
  );
  assert.equal(reply.headers["content-type"], "audio/mpeg");
  assert.equal(reply.headers["content-length"], String(body.length));
});

test("a GET list with its query", async () => {
  const list = '{\n  "object": "list",\n  "data": []\n}\n';
  const { call } = await passes(
    { method: "GET", path: "/proxy/files?purpose=fine-tune&limit=2&after=a%2Fb" },
    { body: list },
    { detail: "method" },
  );
  assert.equal(call.headers["content-type"], undefined);
  assert.equal(call.headers["content-length"], undefined);
});

test("HEAD keeps the headers and has no body", async () => {
  const { reply } = await passes(
    { method: "HEAD", path: "/proxy/models" },
    { headers: { "content-length": "1234", "x-request-id": "req_1" } },
    { detail: "method" },
  );
  assert.equal(reply.headers["x-request-id"], "req_1");
  assert.equal(reply.headers["content-length"], "1234");
});

test("DELETE, with 204 and nothing else", async () => {
  await passes(
    { method: "DELETE", path: "/proxy/files/file_1" },
    { status: 204, headers: { "content-type": null } },
    { detail: "method" },
  );
});

test("DELETE with a body", async () => {
  await passes(
    { method: "DELETE", path: "/proxy/things", headers: JSON_BODY, body: '{ "ids": [1] }' },
    {},
    { detail: "method" },
  );
});

test("OPTIONS: the upstream's own CORS answer", async () => {
  const cors = {
    "access-control-allow-origin": "https://app.example",
    "access-control-allow-methods": "POST",
    "content-type": null,
  };
  const { call, reply } = await passes(
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

test("304 to a conditional request", async () => {
  const { call, reply } = await passes(
    { method: "GET", path: "/proxy/models", headers: { "if-none-match": '"v1"' } },
    { status: 304, headers: { etag: '"v1"', "content-type": null } },
    { detail: "method" },
  );
  assert.equal(call.headers["if-none-match"], '"v1"');
  assert.equal(reply.headers.etag, '"v1"');
});

for (const status of [301, 302, 303, 307, 308]) {
  test(`a ${status} is handed on, not followed`, async () => {
    const location = `${upstream.origin}/v1/elsewhere`;
    const { reply } = await passes(
      { method: "GET", path: "/proxy/files/file_1/content" },
      { status, headers: { location }, body: "moved" },
      { detail: "method" },
    );
    assert.equal(reply.headers.location, location);
  });
}

for (const [encoding, compress] of [
  ["gzip", gzipSync],
  ["br", brotliCompressSync],
]) {
  test(`a ${encoding} reply stays as it is`, async () => {
    const body = compress(Buffer.from(JSON.stringify({ data: "x".repeat(5000) })));
    const { call, reply } = await passes(
      { method: "GET", path: "/proxy/models", headers: { "accept-encoding": encoding } },
      { headers: { "content-encoding": encoding }, body },
      { detail: "method" },
    );
    assert.equal(call.headers["accept-encoding"], encoding);
    assert.equal(reply.headers["content-encoding"], encoding);
  });

  test(`a ${encoding} answer that is stored on its way reaches the client as it is`, async () => {
    const body = compress(Buffer.from(JSON.stringify({ id: "zipped" })));
    upstream.next({ headers: { "content-encoding": encoding }, body });
    const question = chat();
    question.headers["accept-encoding"] = encoding;
    const reply = await proxy.settled(() => send(proxy.origin, question));
    assert.equal(expect.cacheStatus(reply), "MISS");
    assert.equal(reply.headers["content-encoding"], encoding);
    expect.sameBytes(reply.body, body, "the compressed answer");
  });
}

test("two cookies stay two", async () => {
  const { reply } = await passes(
    { method: "GET", path: "/proxy/models" },
    { headers: { "set-cookie": ["a=1; Path=/", "b=2; Expires=Wed, 21 Oct 2037 07:28:00 GMT"] } },
    { detail: "method" },
  );
  assert.deepEqual(reply.headers["set-cookie"], ["a=1; Path=/", "b=2; Expires=Wed, 21 Oct 2037 07:28:00 GMT"]);
});

for (const status of [400, 401, 403, 404, 413, 429, 500, 503, 529]) {
  test(`an upstream's ${status} keeps its body and headers`, async () => {
    const body = `{ "error" : {"message":"n\\u00f6","type":"x","code":null,"param":null} }\n`;
    const { reply } = await passes(
      { path: "/proxy/files", headers: JSON_BODY, body: "{}" },
      { status, headers: { "x-request-id": "req_1", "retry-after": "7" }, body },
      { detail: "endpoint" },
    );
    assert.equal(reply.headers["x-request-id"], "req_1");
    assert.equal(reply.headers["retry-after"], "7");
  });
}

test("a WebSocket upgrade echoes both ways", async () => {
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
  const { response, socket } = await within(upgraded, "the upgrade");
  assert.equal(response.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455, section 1.3
  assert.equal(expect.cacheStatus(response), "BYPASS");
  assert.equal(expect.detail(response), "method");
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
    while (arrived.length < frame.length) await within(new Promise((resolve) => (wake = resolve)), "a frame");
    expect.sameBytes(arrived.subarray(0, frame.length), frame, "the frame");
    arrived = arrived.subarray(frame.length);
  };
  for (const [opcode, payload] of [
    [1, Buffer.from('{"type":"response.create"}')],
    [2, ALL_BYTES.subarray(0, 100)],
    [1, Buffer.from("é 😀")],
  ]) {
    socket.write(maskedFrame(opcode, payload));
    await receive(Buffer.concat([Buffer.from([0x80 | opcode, payload.length]), payload]));
  }
  socket.destroy();
});

// A whole message as a client sends it: masked (RFC 6455, section 5.3).
function maskedFrame(opcode, payload) {
  const mask = Buffer.from([1, 2, 3, 4]);
  const masked = payload.map((byte, i) => byte ^ mask[i % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length]), mask, masked]);
}

// A piece can only have come through unbuffered if it is there while the upstream still holds back the next.
async function arrivesPieceByPiece(request, stream, pieces) {
  upstream.next(stream.answer);
  await proxy.settled(async () => {
    const opening = open(proxy.origin, request);
    await within(stream.begun, "the upstream to be asked");
    const reply = await opening; // the head arrives before the first piece is sent
    for (const piece of pieces) {
      await stream.send(piece);
      let got = "";
      while (got.length < piece.length) got += await reply.next();
      assert.equal(got, piece);
    }
    await stream.end();
    assert.equal(await reply.next(), null);
  });
}

const EVENTS = ["Hel", "lo"].map(
  (content) =>
    `data: ${JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`,
);

test("a stream arrives event by event", async () => {
  await arrivesPieceByPiece(chat({ stream: true }), commandedStream(), [...EVENTS, "data: [DONE]\n\n"]);
});

test("a stream arrives even in the middle of an event", async () => {
  await arrivesPieceByPiece(chat({ stream: true }), commandedStream(), [
    'data: {"id":"c',
    'hatcmpl-1","choices":[]}\n',
    "\nda",
    "ta: [DONE]\n\n",
  ]);
});

test("a stream past the cache arrives event by event", async () => {
  await arrivesPieceByPiece({ ...chat({ stream: true }), path: "/proxy/threads/runs" }, commandedStream(), EVENTS);
});

test("a plain answer arrives piece by piece while it is captured for the store", async () => {
  const stream = commandedStream({ headers: { "content-type": "application/json" } });
  await arrivesPieceByPiece(chat(), stream, ['{"id":"chatcmpl-1",', '"choices":[]', "}"]);
  const again = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(expect.cacheStatus(again), "HIT");
  assert.equal(again.body.toString(), '{"id":"chatcmpl-1","choices":[]}');
});

test("a client that leaves early does not spoil the entry", async () => {
  const stream = commandedStream({ headers: { "content-type": "application/json" } });
  upstream.next(stream.answer);
  await proxy.settled(async () => {
    const reply = await open(proxy.origin, chat());
    await stream.send('{"id":');
    await reply.next();
    reply.leave();
    await stream.send('"whole"}');
    await stream.end();
  });
  const again = await proxy.settled(() => send(proxy.origin, chat()));
  assert.equal(expect.cacheStatus(again), "HIT", again.headers["cache-status"]);
  assert.equal(again.body.toString(), '{"id":"whole"}');
  assert.equal(upstream.calls.length, 1);
});

test("a client that leaves early from an answer that then breaks leaves nothing stored", async () => {
  const stream = commandedStream({ headers: { "content-type": "application/json" } });
  upstream.next(stream.answer);
  await proxy.settled(async () => {
    const reply = await open(proxy.origin, chat());
    await stream.send('{"id":"broken"');
    await reply.next();
    reply.leave();
    stream.cut();
  });
  assert.deepEqual(await proxy.entries(), []);
});

test("a client that leaves a request past the cache frees the upstream", async () => {
  const stream = commandedStream();
  upstream.next(stream.answer);
  const reply = await open(proxy.origin, { ...chat({ stream: true }), path: "/proxy/threads/runs" });
  await stream.send("data: {}\n\n");
  await reply.next();
  const call = await stream.begun;
  let given = false;
  const left = call.left.then(() => (given = true));
  reply.leave();
  // The runtime notices when it has something to pass on.
  const sending = async () => {
    for (; !given; await new Promise(setImmediate)) await stream.send("data: {}\n\n");
  };
  await within(Promise.all([left, sending()]), "the upstream's connection to be given up");
});

test("TARGET_BASE_URL is another name for OPENAI_BASE_URL", async () => {
  const other = await worker({ vars: { TARGET_BASE_URL: `${upstream.origin}/other/v1` } });
  const reply = await other.settled(() => send(other.origin, chat()));
  assert.equal(reply.status, 200);
  assert.equal(upstream.last.url, "/other/v1/chat/completions");
});
