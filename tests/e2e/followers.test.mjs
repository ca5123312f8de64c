// Who follows a stream and keeps up is not broken off, however little is kept of it and however its leader reads.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { open, read } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
beforeEach(() => upstream.reset());
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", COALESCE: "true" };
const proxy = await worker({ vars: { ...VARS, CACHE_MAX_BYTES: "20000" } });

const question = (content) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
  body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content }] }),
});
const event = (length) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: "x".repeat(length) } }] })}\n\n`;
const DONE = "data: [DONE]\n\n";

const answers = { "long events, one after the other": Array(6).fill(event(50_000)), "a burst": [event(1_000).repeat(1_500)] };
for (const [what, pieces] of Object.entries(answers)) {
  for (const leads of ["reads", "stalls", "leaves"]) {
    test(`${what}; the leader ${leads}`, async () => {
      const stream = commandedStream();
      upstream.next(stream.answer);
      const leader = await open(proxy.origin, question(what + leads));
      const follower = await open(proxy.origin, question(what + leads));
      assert.equal(expect.cacheStatus(follower), "COALESCED");
      if (leads === "leaves") leader.leave();
      for (const piece of [...pieces, DONE]) {
        const reading = [follower, ...(leads === "reads" ? [leader] : [])].map((reply) => read(reply, piece.length));
        await stream.send(piece);
        for (const got of await within(Promise.all(reading), "the piece")) {
          expect.sameBytes(Buffer.from(got), Buffer.from(piece), "what came");
        }
      }
      await stream.end();
      assert.equal(await follower.next(), null);
      leader.leave();
    });
  }
}
