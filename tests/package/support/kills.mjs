// Kills at random moments under load. `node tests/package/support/kills.mjs --kills 1000 [--seed N]` does it with the packed command;
// the tests do it a few times.

import assert from "node:assert/strict";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { send } from "../../../testkit/client.mjs";
import { entryFiles, install, isRunning, startCommand } from "../../../testkit/command.mjs";
import { randomNumbers } from "../../../testkit/random.mjs";
import { startUpstream } from "../../../testkit/upstream.mjs";
import { waitFor } from "../../../testkit/wait.mjs";

const CLIENTS = 4;
const MOST_WRITES = 12;
const LONGEST_PAUSE_MS = 60;
const LARGEST_RESPONSE = 200_000;

// The log line of a request names its model, so a request has its number in the model.
const request = (n, headers = {}) => ({
  path: "/proxy/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer sk-client", ...headers },
  body: JSON.stringify({ model: `model-${n}`, messages: [{ role: "user", content: "?" }] }),
});
const numberIn = (model) => Number(model.split("-")[1]);

// Each response names its request, and has a length of its own.
const contentOf = (n) => `response ${n} ${"x".repeat((n * 7919) % LARGEST_RESPONSE)}`;
const textOf = (reply) => JSON.parse(reply.body.toString()).choices[0].message.content;

/**
 * Starts the command, sends new requests, and kills the command or workerd, `rounds` times. After each kill, the next start prints no
 * complaint, serves every response whose entry was acknowledged, and no response that is damaged or another's. Returns counts.
 *
 * @param {{ folder: string, rounds: number, seed?: number, say?: (text: string) => void }} options
 */
export async function killOften({ folder, rounds, seed = 1, say = () => {} }) {
  const random = randomNumbers(seed);
  const dir = path.join(folder, ".reprise");
  const upstream = await startUpstream({ record: false });
  upstream.otherwise((call) => {
    const content = contentOf(numberIn(JSON.parse(call.body).model));
    return { json: { choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }] } };
  });
  const totals = { kills: 0, ofWorkerd: 0, sent: 0, acknowledged: 0, storedUnacknowledged: 0 };
  /** @type {Set<number>} */
  const acknowledged = new Set();
  let next = 0;

  const start = async () => {
    const command = await startCommand(folder, { args: ["--upstream", `${upstream.origin}/v1`] });
    assert.equal(command.stderr, "");
    return command;
  };
  /** @param {Iterable<number>} numbers those of the requests */
  const verify = async (command, numbers) => {
    for (const n of numbers) {
      const reply = await send(command.url, request(n, { "cache-control": "only-if-cached" }));
      if (reply.status === 200) assert.equal(textOf(reply), contentOf(n));
      else assert.ok(!acknowledged.has(n), `the stored response ${n} is lost: ${reply.status}`);
      if (reply.status === 200 && !acknowledged.has(n)) totals.storedUnacknowledged += 1;
    }
  };

  try {
    let sent = /** @type {number[]} */ ([]);
    for (let round = 0; round < rounds; round += 1) {
      const command = await start();
      await verify(command, sent);
      sent = [];
      const before = command.requests.length;
      let over = false;
      const clients = Array.from({ length: CLIENTS }, async () => {
        while (!over) {
          const n = next++;
          sent.push(n);
          // The kill ends some of them.
          const reply = await send(command.url, request(n)).catch(() => undefined);
          if (reply) assert.equal(textOf(reply), contentOf(n));
        }
      });
      // At some amount of work, whatever the speed of this machine is, and then at any time of the next.
      const writes = Math.floor(random() * MOST_WRITES);
      if (writes > 0) await command.logged(before + writes);
      await sleep(random() * LONGEST_PAUSE_MS);
      over = true;
      const { workerd } = command;
      const ofWorkerd = random() < 0.5;
      process.kill(ofWorkerd ? workerd : command.pid, "SIGKILL");
      await command.ended;
      await waitFor(() => !isRunning(workerd), "workerd to end");
      await Promise.all(clients);
      // The log line of a request is written when its response is stored. If it is not stored, the line has a reason.
      for (const { model, cache, reason } of command.requests) {
        if (cache !== "MISS" || reason === "only-if-cached") continue;
        assert.equal(reason, null);
        acknowledged.add(numberIn(model));
      }
      totals.kills += 1;
      totals.ofWorkerd += Number(ofWorkerd);
      totals.sent = next;
      totals.acknowledged = acknowledged.size;
      if (totals.kills % 50 === 0) say(JSON.stringify(totals));
    }
    const command = await start();
    await verify(command, sent);
    await verify(command, acknowledged);
    assert.deepEqual(
      entryFiles(dir).filter((file) => path.basename(file).startsWith(".")),
      [],
    );
    await command.stop();
    return totals;
  } finally {
    await upstream.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: { kills: { type: "string", default: "1000" }, seed: { type: "string", default: String(Date.now()) } },
  });
  console.log(`seed ${values.seed}`);
  const { folder } = await install();
  const say = (text) => console.log(text);
  say(JSON.stringify(await killOften({ folder, rounds: Number(values.kills), seed: Number(values.seed), say })));
}
