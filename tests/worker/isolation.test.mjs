// A thousand clients send the same body, each with an identity of its own. No client ever gets another's response.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { chatRequest } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const TOKENS = ["tok-a", "tok-b", "tok-ab"];
const CLIENTS = 1000;
const CONCURRENCY = 20;

// Clients that differ in at least one of: token, own credential and its header, organisation, version, namespace.
function clients() {
  const all = [];
  const credentials = [
    {},
    ...["authorization", "x-api-key"].flatMap((name) => ["a", "b", "ab"].map((value) => ({ [name]: `own-${value}` }))),
  ];
  for (const own of credentials) {
    // Beside an own credential the token makes no difference: one token is enough.
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
  assert.ok(all.length >= CLIENTS, `${all.length} clients`);
  return all.slice(0, CLIENTS);
}

test("a thousand clients with the same body never get each other's responses", async () => {
  const vars = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0" };
  const proxy = await worker({ vars: { ...vars, PROXY_TOKENS: TOKENS.join(",") } });
  const all = clients();
  const ask = (headers) => send(proxy.origin, chatRequest("the same body", { headers, key: null }));
  let logged = 0;
  const round = async (order) => {
    const responses = new Map();
    for (let at = 0; at < order.length; at += CONCURRENCY) {
      await Promise.all(
        order.slice(at, at + CONCURRENCY).map(async (client) => {
          const reply = await ask(client);
          assert.equal(reply.status, 200, reply.body.toString());
          responses.set(client, { response: reply.body.toString(), cache: xCacheStatusOf(reply) });
        }),
      );
      await proxy.logged(logged + responses.size);
    }
    logged += responses.size;
    return responses;
  };
  const first = await round(all);
  assert.equal(upstream.calls.length, CLIENTS);
  assert.equal(new Set([...first.values()].map(({ response }) => response)).size, CLIENTS, "a response was sent twice");
  // The same requests in another order.
  const second = await round([...all].reverse());
  assert.equal(upstream.calls.length, CLIENTS);
  for (const client of all) {
    assert.deepEqual(
      second.get(client),
      { response: first.get(client).response, cache: "HIT" },
      JSON.stringify(client),
    );
  }
});
