// A thousand askers of one and the same question, each with a cache of its own: nobody ever gets another's answer.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const TOKENS = ["tok-a", "tok-b", "tok-ab"];
const ASKERS = 1000;
const AT_ONCE = 20;

// Askers that differ in one thing at least: token, own credential and its place, organisation, version, namespace.
function askers() {
  const all = [];
  const credentials = [{}, ...["authorization", "x-api-key"].flatMap((name) => ["a", "b", "ab"].map((value) => ({ [name]: `own-${value}` })))];
  for (const own of credentials) {
    // Beside a credential of its own the token makes no difference: then one is enough.
    for (const token of Object.keys(own).length === 0 ? TOKENS : TOKENS.slice(0, 1)) {
      for (const organization of [null, "a", "b", "own-a", "tok-a"]) {
        for (const version of [null, "2023-06-01", "2024-01-01", "a"]) {
          for (const namespace of [null, "a", "b", "ab", "own-a", "tok-a"]) {
            all.push({
              "x-goog-api-key": token,
              ...own,
              "openai-organization": organization,
              "anthropic-version": version,
              "x-proxy-namespace": namespace,
            });
          }
        }
      }
    }
  }
  assert.ok(all.length >= ASKERS, `${all.length} askers`);
  return all.slice(0, ASKERS);
}

test("a thousand askers of one question never get each other's answers", async () => {
  const vars = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", STORE_TIMEOUT_MS: "20000" };
  const proxy = await worker({ vars: { ...vars, PROXY_TOKENS: TOKENS.join(",") } });
  const all = askers();
  const ask = (headers) =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "the same question" }] }),
    });
  let logged = 0;
  const round = async (order) => {
    const answers = new Map();
    for (let at = 0; at < order.length; at += AT_ONCE) {
      await Promise.all(
        order.slice(at, at + AT_ONCE).map(async (asker) => {
          const reply = await ask(asker);
          assert.equal(reply.status, 200, reply.body.toString());
          answers.set(asker, { answer: reply.body.toString(), cache: expect.cacheStatus(reply) });
        }),
      );
      await proxy.logged(logged + answers.size);
    }
    logged += answers.size;
    return answers;
  };
  const first = await round(all);
  assert.equal(upstream.calls.length, ASKERS);
  assert.equal(new Set([...first.values()].map(({ answer }) => answer)).size, ASKERS, "an answer was given twice");
  // Again, in another order.
  const second = await round([...all].reverse());
  assert.equal(upstream.calls.length, ASKERS);
  for (const asker of all) {
    assert.deepEqual(second.get(asker), { answer: first.get(asker).answer, cache: "HIT" }, JSON.stringify(asker));
  }
});
