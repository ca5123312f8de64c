// What leaves a trace, and where: everything that the worker has written, and every name and value in its store, is
// searched for every credential, prompt and answer of the run, as it is, in hexadecimal digits, in base64 and hashed.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import { send } from "./support/client.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

// Every form in which a secret might be found. Base64 depends on what stands before: a secret in the middle of something
// has one of three forms, but for the characters at its ends, which share bits with its neighbours.
function forms(secret) {
  const bytes = Buffer.from(secret);
  const found = { plain: secret, hex: bytes.toString("hex"), HEX: bytes.toString("hex").toUpperCase() };
  for (const offset of [0, 1, 2]) {
    const text = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
    const inner = text.slice(offset === 0 ? 0 : offset + 1, Math.floor(((offset + bytes.length) * 8) / 6));
    found[`base64+${offset}`] = inner;
    found[`base64url+${offset}`] = inner.replaceAll("+", "-").replaceAll("/", "_");
  }
  for (const algorithm of ["sha256", "sha1", "md5"]) {
    const hash = createHash(algorithm).update(bytes).digest();
    found[algorithm] = hash.toString("hex");
    found[`${algorithm} base64`] = hash.toString("base64").replace(/=+$/, "");
    found[`${algorithm} bytes`] = hash.toString("latin1");
  }
  return found;
}

// Where a text holds a secret, in whatever form.
function traces(text, secrets) {
  return secrets.flatMap(({ kind, secret }) =>
    Object.entries(forms(secret))
      .filter(([, form]) => text.includes(form))
      .map(([form]) => `${kind} (${form})`),
  );
}

test("the search finds what it looks for", () => {
  const secret = "a secret of 23 letters!";
  for (const before of ["", "x", "xy"]) {
    const text = `${before}${secret} and more`;
    for (const coded of [text, Buffer.from(text).toString("hex"), Buffer.from(text).toString("base64")]) {
      assert.notDeepEqual(traces(`… ${coded} …`, [{ kind: "it", secret }]), []);
    }
  }
  assert.notDeepEqual(traces(createHash("sha256").update(secret).digest("hex"), [{ kind: "it", secret }]), []);
});

for (const store of ["kv", "upstash"]) {
  for (const [sealed, DEBUG] of [
    [false, "false"],
    [true, "true"],
  ]) {
    test(`no trace of credentials and prompts, nor of answers but where they belong (${store}, ${sealed ? "sealed" : "plain"}, DEBUG=${DEBUG})`, async () => {
      upstream.reset();
      const secrets = [];
      let n = 0;
      // Letters and digits that need no escape anywhere, and are found nowhere else.
      const secret = (kind) => {
        n += 1;
        const text = `${kind}Geheim${n}${createHash("sha256").update(`${kind} ${n}`).digest("base64").replace(/\W/g, "").slice(0, 12)}`;
        secrets.push({ kind, secret: text });
        return text;
      };
      const [token, admin, sealing] = [secret("token"), secret("admin"), secret("sealing")];
      const vars = {
        OPENAI_BASE_URL: `${upstream.origin}/v1`,
        MAX_RETRIES: "0",
        STORE_TIMEOUT_MS: "20000",
        DEBUG,
        PROXY_TOKENS: token,
        ADMIN_TOKEN: admin,
        ...(sealed ? { CACHE_ENCRYPTION_KEY: sealing } : {}),
      };
      const proxy = await worker({ vars, store });
      const credentials = () => ({
        "x-goog-api-key": token,
        authorization: `Bearer ${secret("authorization")}`,
        "x-api-key": secret("xapikey"),
        cookie: `session=${secret("cookie")}`,
      });
      const chat = (more = {}, headers = {}) => ({
        path: "/proxy/chat/completions",
        headers: { "content-type": "application/json", ...credentials(), ...headers },
        body: JSON.stringify({ model: "m", user: secret("user"), messages: [{ role: "user", content: secret("prompt") }], ...more }),
      });
      const stream = (text) =>
        `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: text }, finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`;
      const answers = [];
      const answer = () => {
        const text = secret("answer");
        answers.push(secrets.pop());
        return text;
      };
      const events = { "content-type": "text/event-stream", "set-cookie": secret("setcookie") };
      const exchanges = [
        [chat(), { json: { choices: [{ message: { content: answer() } }] }, headers: { "set-cookie": secret("setcookie") } }],
        [chat({ stream: true }), { headers: events, body: stream(answer()) }],
        [chat({}, { "x-proxy-namespace": secret("namespace") }), { json: { id: answer() } }],
        [chat({}, { "x-proxy-refresh": "true" }), { json: { id: answer() } }],
        [chat({}, { "cache-control": "only-if-cached" })],
        [chat(), { status: 401, json: { error: { message: `Incorrect API key: ${secret("error")}` } } }],
        [chat(), { status: 500, body: secret("error500") }],
        [chat(), { body: `{"half": "${secret("half")}` }],
        [chat({ stream: true }), { headers: events, body: stream(secret("cutstream")), cut: 40 }],
        [{ ...chat(), body: `{"prompt":"${secret("invalid")}"` }],
        [chat({}, { "x-proxy-ttl": secret("ttl") })],
        [{ method: "GET", path: `/proxy/models?key=${secret("querykey")}&q=${secret("query")}`, headers: credentials() }],
        [{ ...chat(), path: `/proxy/v1beta/models/m:generateContent?key=${secret("googlekey")}` }, { json: { candidates: [{ content: { parts: [{ text: answer() }] } }] } }],
        [{ ...chat(), headers: { "content-type": "application/json", authorization: `Bearer ${secret("wrongtoken")}` } }],
        [{ method: "DELETE", path: "/admin/cache?namespace=x", headers: { authorization: `Bearer ${secret("wrongadmin")}` } }],
        [{ method: "DELETE", path: `/admin/cache?namespace=${secret("purged")}`, headers: { authorization: `Bearer ${admin}` } }],
        [{ method: "GET", path: "/metrics", headers: { authorization: `Bearer ${admin}` } }],
        [{ method: "GET", path: "/nowhere", headers: credentials() }],
      ];
      // Whose answer was stored is asked again, as a stream and plainly.
      for (const [request, said] of exchanges) {
        upstream.reset();
        if (said !== undefined) upstream.next(said);
        await proxy.settled(() => send(proxy.origin, { ...request, mayBreak: true }));
      }
      await proxy.settled(() => send(proxy.origin, exchanges[0][0]));
      await proxy.settled(() => send(proxy.origin, { ...exchanges[1][0], body: exchanges[1][0].body.replace('"stream":true', '"stream":false') }));
      upstream.reset();
      await upstream.refuse();
      await proxy.settled(() => send(proxy.origin, chat()));
      await upstream.listen();

      const everything = [...secrets, ...answers];
      assert.ok(proxy.lines.length >= exchanges.length + 3);
      assert.deepEqual(traces(proxy.output, everything), [], "in the log");
      const entries = await proxy.entries();
      assert.ok(entries.length >= 4, `${entries.length} entries`);
      const raw = [];
      for (const [name, bytes, metadata] of entries) {
        raw.push(name, JSON.stringify(metadata));
        // As it is, and as Redis has it.
        raw.push(bytes.toString("latin1"), bytes.toString("base64"));
      }
      assert.deepEqual(traces(raw.join("\n"), secrets), [], "in the store");
      const kept = traces(raw.join("\n"), answers);
      if (sealed) assert.deepEqual(kept, [], "sealed answers in the store");
      else assert.ok(kept.length >= 4, "answers are looked for where they are");
    });
  }
}
