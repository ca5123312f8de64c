// The Worker's output and every name and value in its store are searched for every credential, prompt and response of the run:
// as it is, in hexadecimal digits, in base64 and hashed.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import { send } from "../../testkit/client.mjs";
import { chatEvent, DONE, EVENT_STREAM, result } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

// Every form in which a secret could be found. Base64 depends on the offset: a secret inside a longer text has one of three
// forms, except for the characters at its ends, which share bits with their neighbours.
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

// The secrets that a text contains, in any form.
function leaks(text, secrets) {
  return secrets.flatMap(({ kind, secret }) =>
    Object.entries(forms(secret))
      .filter(([, form]) => text.includes(form))
      .map(([form]) => `${kind} (${form})`),
  );
}

test("the search finds every form of a secret", () => {
  const secret = "a secret of 23 letters!";
  for (const before of ["", "x", "xy"]) {
    const text = `${before}${secret} and more`;
    for (const coded of [text, Buffer.from(text).toString("hex"), Buffer.from(text).toString("base64")]) {
      assert.notDeepEqual(leaks(`… ${coded} …`, [{ kind: "it", secret }]), []);
    }
  }
  assert.notDeepEqual(leaks(createHash("sha256").update(secret).digest("hex"), [{ kind: "it", secret }]), []);
});

for (const store of ["kv", "upstash"]) {
  for (const [encrypted, DEBUG] of [
    [false, "false"],
    [true, "true"],
  ]) {
    test(`credentials and prompts leave no trace, and responses only in their entries (${store}, ${encrypted ? "encrypted" : "plain"}, DEBUG=${DEBUG})`, async () => {
      upstream.reset();
      const secrets = [];
      let n = 0;
      // Letters and digits that need no escape anywhere and occur nowhere else.
      const secret = (kind) => {
        n += 1;
        const text = `${kind}Geheim${n}${createHash("sha256").update(`${kind} ${n}`).digest("base64").replace(/\W/g, "").slice(0, 12)}`;
        secrets.push({ kind, secret: text });
        return text;
      };
      const [token, admin, encryptionKey] = [secret("token"), secret("admin"), secret("encryption")];
      const vars = {
        OPENAI_BASE_URL: `${upstream.origin}/v1`,
        MAX_RETRIES: "0",
        DEBUG,
        PROXY_TOKENS: token,
        ADMIN_TOKEN: admin,
        ...(encrypted ? { CACHE_ENCRYPTION_KEY: encryptionKey } : {}),
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
        body: JSON.stringify({
          model: "m",
          user: secret("user"),
          messages: [{ role: "user", content: secret("prompt") }],
          ...more,
        }),
      });
      const stream = (text) => chatEvent({ content: text }, "stop") + DONE;
      const responses = [];
      const response = () => {
        const text = secret("response");
        responses.push(secrets.pop());
        return text;
      };
      const events = { ...EVENT_STREAM, "set-cookie": secret("setcookie") };
      const exchanges = /** @type {any[][]} */ ([
        [
          chat(),
          { json: { choices: [{ message: { content: response() } }] }, headers: { "set-cookie": secret("setcookie") } },
        ],
        [chat({ stream: true }), { headers: events, body: stream(response()) }],
        [chat({}, { "x-proxy-namespace": secret("namespace") }), { json: result(response()) }],
        [chat({}, { "x-proxy-refresh": "true" }), { json: result(response()) }],
        [chat({}, { "cache-control": "only-if-cached" })],
        [chat(), { status: 401, json: { error: { message: `Incorrect API key: ${secret("error")}` } } }],
        [chat(), { status: 500, body: secret("error500") }],
        [chat(), { body: `{"half": "${secret("half")}` }],
        [chat({ stream: true }), { headers: events, body: stream(secret("cutstream")), truncate: 40 }],
        [{ ...chat(), body: `{"prompt":"${secret("invalid")}"` }],
        [chat({}, { "x-proxy-ttl": secret("ttl") })],
        [
          {
            method: "GET",
            path: `/proxy/models?key=${secret("querykey")}&q=${secret("query")}`,
            headers: credentials(),
          },
        ],
        [
          { ...chat(), path: `/proxy/v1beta/models/m:generateContent?key=${secret("googlekey")}` },
          { json: { candidates: [{ content: { parts: [{ text: response() }] } }] } },
        ],
        [
          {
            ...chat(),
            headers: { "content-type": "application/json", authorization: `Bearer ${secret("wrongtoken")}` },
          },
        ],
        [
          {
            method: "DELETE",
            path: "/admin/cache?namespace=x",
            headers: { authorization: `Bearer ${secret("wrongadmin")}` },
          },
        ],
        [
          {
            method: "DELETE",
            path: `/admin/cache?namespace=${secret("purged")}`,
            headers: { authorization: `Bearer ${admin}` },
          },
        ],
        [{ method: "GET", path: "/metrics", headers: { authorization: `Bearer ${admin}` } }],
        [{ method: "GET", path: "/nowhere", headers: credentials() }],
      ]);
      for (const [request, described] of exchanges) {
        upstream.reset();
        if (described !== undefined) upstream.next(described);
        await proxy.settled(() => send(proxy.origin, { ...request, allowTruncation: true }));
      }
      // Stored responses are requested again, in the same mode and in the other.
      await proxy.settled(() => send(proxy.origin, exchanges[0][0]));
      await proxy.settled(() =>
        send(proxy.origin, {
          ...exchanges[1][0],
          body: exchanges[1][0].body.replace('"stream":true', '"stream":false'),
        }),
      );
      upstream.reset();
      await upstream.stopListening();
      await proxy.settled(() => send(proxy.origin, chat()));
      await upstream.listen();

      const everything = [...secrets, ...responses];
      assert.ok(proxy.lines.length >= exchanges.length + 3);
      assert.deepEqual(leaks(proxy.output, everything), [], "in the log");
      const entries = await proxy.entries();
      assert.ok(entries.length >= 4, `${entries.length} entries`);
      const raw = [];
      for (const [name, bytes, metadata] of entries) {
        raw.push(name, JSON.stringify(metadata));
        // As it is, and as Redis stores it.
        raw.push(bytes.toString("latin1"), bytes.toString("base64"));
      }
      assert.deepEqual(leaks(raw.join("\n"), secrets), [], "in the store");
      const stored = leaks(raw.join("\n"), responses);
      if (encrypted) assert.deepEqual(stored, [], "encrypted responses in the store");
      else assert.ok(stored.length >= 4, "the responses are found in their entries");
    });
  }
}
