// The start of a Worker: the time from the start of its process to its first response, and the size of its wasm.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { chat, chatBody } from "../client.mjs";
import { row } from "../report.mjs";
import { EMPTY, floor, REPRISE, startCommand, startWorkerd } from "../workers.mjs";

export async function start({ upstream, quick, log }) {
  log("Starts");
  const vars = { OPENAI_BASE_URL: upstream.base(1_500) };
  const headers = { "content-type": "application/json", authorization: "Bearer sk-bench" };
  const proxied = [chat({ url: "" }), { method: "POST", headers, body: chatBody(600) }];
  /** @type {Record<string, any[]>} */
  const subjects = {
    "static JS worker": [{ modules: floor("static") }, "/healthz"],
    "empty Rust worker": [{ modules: EMPTY }, "/healthz"],
    "Reprise, /healthz": [{ modules: REPRISE, vars, bound: true }, "/healthz"],
    "bare pass-through, a call upstream": [{ modules: floor("pass"), vars }, ...proxied],
    "Reprise, a call upstream": [{ modules: REPRISE, vars, bound: true }, ...proxied],
    "the command `reprise`, a call upstream": [{ command: true, vars }, ...proxied],
  };
  const times = Object.fromEntries(Object.keys(subjects).map((name) => [name, []]));
  for (let round = -1; round < (quick ? 5 : 15); round += 1) {
    for (const [name, [definition, ...request]] of Object.entries(subjects)) {
      const worker = await (definition.command ? startCommand(definition) : startWorkerd(definition));
      const ms = await worker.ready(request[0], request[1]);
      await worker.stop();
      if (round >= 0) times[name].push(ms); // the first one reads its files from disk
    }
  }
  const against = (name, other, target) =>
    row({
      group: "start",
      name,
      unit: "ms",
      rounds: times[name],
      to: other && { name: other, rounds: times[other] },
      target,
    });
  return [
    against("static JS worker"),
    against("empty Rust worker", "static JS worker"),
    against("Reprise, /healthz", "empty Rust worker", { ratio: 1.3 }),
    against("Reprise, /healthz", "static JS worker"),
    against("bare pass-through, a call upstream"),
    against("Reprise, a call upstream", "bare pass-through, a call upstream"),
    against("Reprise, a call upstream", "empty Rust worker"),
    against("the command `reprise`, a call upstream", "Reprise, a call upstream", { ratio: 3 }),
    against("the command `reprise`, a call upstream", "bare pass-through, a call upstream"),
  ];
}

export function size() {
  const [ours, empty] = [REPRISE, EMPTY].map((modules) =>
    readFileSync(modules.find(([name]) => name.endsWith(".wasm"))[1]),
  );
  const kB = (name, of, other, target) =>
    row({
      group: "size",
      name,
      unit: "kB",
      rounds: [of / 1000],
      to: { name: "empty Rust worker", rounds: [other / 1000] },
      target,
    });
  return [
    kB("raw", ours.length, empty.length),
    kB("gzip", gzipSync(ours).length, gzipSync(empty).length, { value: 400 }),
  ];
}
