// The broadcast: one upstream body for many readers.

import assert from "node:assert/strict";
import { after, beforeEach, describe, mock, test } from "node:test";
import { drain, readChunk, readText, ScriptedBody, settled } from "./support/streams.mjs";

const { Broadcast } = await import("../../src/worker/coalesce/broadcast.js");
const { PollPace } = await import("../../src/worker/coalesce/pacing.js");

const IDLE_MS = 10_000;
const MAX_BUFFERED_BYTES = 1_000;
const KB = "x".repeat(1_000);

// A test that waits for what never comes fails alone: without this, Node ends the whole file.
const keepAlive = setInterval(() => {}, 1_000);
after(() => clearInterval(keepAlive));

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
});

/** Time passes, and everything runs that waited for it. */
async function pass(ms) {
  await settled();
  mock.timers.tick(ms);
  await settled();
}

/**
 * `leader`: "piped" or "direct" if the leader has a branch of its own.
 *
 * @param {{ leader?: any, storable?: boolean, maxBufferedBytes?: number, idleMs?: number, length?: number }} [options]
 */
function start({ leader, storable = true, maxBufferedBytes = MAX_BUFFERED_BYTES, idleMs = IDLE_MS, length } = {}) {
  const upstream = new AbortController();
  const client = new AbortController();
  const body = new ScriptedBody(upstream.signal);
  const signal = leader && client.signal;
  const piped = leader === "piped";
  const broadcast = new Broadcast(body.stream, idleMs, upstream, maxBufferedBytes, storable, signal, piped, length);
  return { broadcast, body, client, aborted: () => upstream.signal.aborted };
}

const heldBytes = (broadcast) => [...broadcast.segments(1)].reduce((sum, segment) => sum + segment.byteLength, 0);

describe("fan-out", () => {
  test("every reader gets the body from its first byte, whenever it joins", async () => {
    const { broadcast, body } = start();
    const early = broadcast.openStream().getReader();
    body.send("one ");
    assert.equal(await readChunk(early), "one ");
    const late = broadcast.openStream().getReader();
    assert.equal(await readChunk(late), "one ");
    assert.equal(broadcast.readerCount, 2);
    body.send("two");
    assert.deepEqual([await readChunk(late), await readChunk(early)], ["two", "two"]);
    body.end();
    assert.deepEqual([await readChunk(late), await readChunk(early)], [undefined, undefined]);
    assert.equal(await broadcast.whenEnded, "");
    assert.equal(broadcast.readerCount, 0);
    assert.equal(await readText(broadcast.openStream()), "one two");
  });

  test("a reader that does not read delays nobody", async () => {
    const { broadcast, body } = start();
    broadcast.openStream();
    const fast = broadcast.openStream();
    for (const text of ["a", "b", "c"]) body.send(text);
    body.end();
    assert.equal(await readText(fast), "abc");
  });

  test("a body that fits is read to its end without any reader", async () => {
    const { broadcast, body } = start();
    body.send("abc");
    body.end();
    assert.equal(await broadcast.whenEnded, "");
    assert.deepEqual([broadcast.bytesRead, broadcast.overflowed], [3, false]);
  });

  test("a chunk longer than one read arrives whole, in larger reads", async () => {
    const { broadcast, body } = start({ maxBufferedBytes: 1_000_000 });
    const text = Array.from({ length: 30_000 }, (_, n) => n).join();
    body.send(text);
    body.end();
    const chunks = [];
    for await (const chunk of broadcast.openStream()) chunks.push(Buffer.from(chunk));
    assert.equal(Buffer.concat(chunks).toString(), text);
    const lengths = chunks.map((chunk) => chunk.length);
    assert.deepEqual(lengths, [4_096, 65_536, 65_536, text.length - 4_096 - 2 * 65_536]);
  });

  test("the whole body is given in segments of at least the size wanted", async () => {
    const { broadcast, body } = start();
    for (const text of ["a", "bc", "d", "efg", "h"]) {
      body.send(text);
      await settled();
    }
    body.end();
    await broadcast.whenEnded;
    const texts = (minBytes) => [...broadcast.segments(minBytes)].map((segment) => Buffer.from(segment).toString());
    assert.deepEqual(texts(3), ["abc", "defg", "h"]);
    assert.deepEqual(texts(100), ["abcdefgh"]);
  });

  test("a stream of known length is checked against it", async () => {
    const { broadcast, body } = start();
    const right = broadcast.openStream(3);
    const wrong = broadcast.openStream(4);
    body.send("abc");
    body.end();
    assert.equal(await readText(right), "abc");
    await assert.rejects(readText(wrong), /declared length/);
  });
});

describe("a body that is too large to store", () => {
  test("cannot be joined any more", async () => {
    const { broadcast, body } = start();
    const reader = broadcast.openStream().getReader();
    let told = false;
    broadcast.whenOverflowed.then(() => {
      told = true;
    });
    body.send(KB);
    await readChunk(reader);
    await settled();
    assert.deepEqual([broadcast.overflowed, told], [false, false]);
    body.send("x");
    await readChunk(reader);
    await settled();
    assert.deepEqual([broadcast.overflowed, told], [true, true]);
    assert.throws(() => broadcast.openStream(), /no longer held/);
    body.end();
    assert.equal(await readChunk(reader), undefined);
    assert.equal(await broadcast.whenEnded, "too-large");
  });

  test("is held only where a reader still needs it", async () => {
    const { broadcast, body } = start();
    const fast = broadcast.openStream().getReader();
    const slow = broadcast.openStream().getReader();
    for (let n = 1; n <= 2; n += 1) {
      body.send(KB);
      await readChunk(fast);
    }
    assert.equal(heldBytes(broadcast), 2_000);
    await readChunk(slow);
    await readChunk(slow);
    body.send("x");
    await readChunk(fast);
    assert.equal(heldBytes(broadcast), 1);
  });

  test("is read no faster than its fastest reader", async () => {
    const { broadcast, body } = start();
    const fast = broadcast.openStream().getReader();
    broadcast.openStream();
    for (let n = 1; n <= 5; n += 1) body.send(KB);
    await settled();
    assert.equal(body.taken, 2);
    await readChunk(fast);
    await readChunk(fast);
    await settled();
    assert.equal(body.taken, 2);
    const third = readChunk(fast);
    await third;
    await settled();
    assert.equal(body.taken, 3);
  });

  test("reaches its fastest reader, however little may be held", async () => {
    const { broadcast, body } = start();
    const reader = broadcast.openStream().getReader();
    body.send(KB.repeat(3));
    await settled();
    assert.equal((await readChunk(reader)).length, 3_000);
    body.end();
    assert.equal(await readChunk(reader), undefined);
  });

  test("is aborted for a reader that is too far behind, and for no other", async () => {
    const { broadcast, body, aborted } = start();
    const fast = broadcast.openStream().getReader();
    const slow = broadcast.openStream().getReader();
    assert.equal(await Promise.race([readChunk(slow), settled()]), undefined);
    for (let n = 1; n <= 3; n += 1) {
      body.send(KB);
      await readChunk(fast);
    }
    // The first chunk was on its way to it. Twice the buffer is held for the rest.
    assert.equal(heldBytes(broadcast), 2_000);
    body.send(KB);
    await readChunk(fast);
    assert.equal(heldBytes(broadcast), 2_000);
    await assert.rejects(readChunk(slow), /too far behind/);
    assert.equal(broadcast.readerCount, 1);
    body.send("end");
    body.end();
    assert.deepEqual([await readChunk(fast), await readChunk(fast)], ["end", undefined]);
    assert.equal(aborted(), false);
  });

  test("is given up when nobody reads it", async () => {
    const { broadcast, body, aborted } = start();
    body.send(`${KB}x`);
    assert.equal(await broadcast.whenEnded, "too-large");
    assert.deepEqual([aborted(), broadcast.bytesRead], [true, undefined]);
  });
});

describe("an upstream that sends nothing", () => {
  for (const leader of [undefined, "piped", "direct"]) {
    test(`is aborted after the idle time; the leader's branch: ${leader ?? "none"}`, async () => {
      const { broadcast, body, aborted } = start({ leader });
      const reader = broadcast.openStream().getReader();
      body.send("a");
      assert.equal(await readChunk(reader), "a");
      await pass(IDLE_MS - 1);
      body.send("b");
      assert.equal(await readChunk(reader), "b");
      await pass(IDLE_MS - 1);
      assert.equal(aborted(), false);
      await pass(1);
      assert.equal(aborted(), true);
      await pass(IDLE_MS);
      assert.equal(await broadcast.whenEnded, "stalled");
      await assert.rejects(readChunk(reader), /aborted/);
    });
  }

  test("is aborted if it is too large to store, too", async () => {
    const { broadcast, body, aborted } = start();
    const reader = broadcast.openStream().getReader();
    body.send(`${KB}x`);
    await readChunk(reader);
    const broken = assert.rejects(readChunk(reader), /aborted/);
    await pass(IDLE_MS);
    assert.equal(aborted(), true);
    await broken;
    assert.equal(await broadcast.whenEnded, "stalled");
  });

  test("is not idle while it waits for a reader", async () => {
    const { broadcast, body, aborted } = start();
    const reader = broadcast.openStream().getReader();
    body.send(`${KB}x`);
    await settled();
    const timers = mock.method(globalThis, "setTimeout");
    for (let ms = 0; ms < 10 * IDLE_MS; ms += 100) await pass(100);
    assert.equal(aborted(), false);
    assert.ok(timers.mock.callCount() <= 10, `${timers.mock.callCount()} timers`);
    timers.mock.restore();
    await readChunk(reader);
    body.send("more");
    assert.equal(await readChunk(reader), "more");
    body.end();
    assert.equal(await readChunk(reader), undefined);
    assert.equal(await broadcast.whenEnded, "too-large");
  });

  test("is judged only by what can be read: a pause longer than the idle time aborts nothing", async () => {
    const { broadcast, body, aborted } = start({ leader: "piped", idleMs: 200 });
    const leader = drain(broadcast.leaderBody);
    for (let n = 1; n <= 30; n += 1) {
      body.send("x");
      await pass(50);
      await pass(100);
      assert.deepEqual([aborted(), leader.bytes], [false, n]);
    }
    for (let n = 1; n <= 30 && !aborted(); n += 1) await pass(50);
    assert.equal(await broadcast.whenEnded, "stalled");
  });
});

describe("a truncated body", () => {
  test("reaches its readers as far as it came, and then as an error", async () => {
    const { broadcast, body, aborted } = start();
    const reader = broadcast.openStream().getReader();
    body.send("a");
    await readChunk(reader);
    body.fail();
    assert.equal(await broadcast.whenEnded, "truncated");
    assert.equal(aborted(), true);
    await assert.rejects(readChunk(reader), /aborted/);
    const late = broadcast.openStream().getReader();
    assert.equal(await readChunk(late), "a");
    await assert.rejects(readChunk(late), /aborted/);
  });

  test("is too large before it is truncated", async () => {
    const { broadcast, body } = start();
    const reader = broadcast.openStream().getReader();
    body.send(`${KB}x`);
    await readChunk(reader);
    body.fail();
    await assert.rejects(readChunk(reader), /aborted/);
    assert.equal(await broadcast.whenEnded, "too-large");
  });

  for (const [idleMs, graceMs] of [
    [60_000, 5_000],
    [1_000, 1_000],
  ]) {
    test(`whose leader reads it as it came is aborted after ${graceMs} ms: the leader may be near its end`, async () => {
      const { broadcast, body, aborted } = start({ leader: "direct", idleMs });
      body.fail();
      await pass(graceMs - 1);
      assert.equal(aborted(), false);
      await pass(1);
      assert.equal(aborted(), true);
      assert.equal(await broadcast.whenEnded, "truncated");
    });
  }

  test("whose leader is piped is not aborted: the leader has yet to get what came before", async () => {
    const { broadcast, body, aborted } = start({ leader: "piped" });
    body.fail();
    assert.equal(await broadcast.whenEnded, "truncated");
    assert.equal(aborted(), false);
  });
});

describe("when readers disconnect", () => {
  for (const [storable, outcome] of /** @type {any[][]} */ ([
    [true, "is read to its end if it is to be stored"],
    [false, "is aborted with the last of them otherwise"],
  ])) {
    test(`a body ${outcome}`, async () => {
      const { broadcast, body, aborted } = start({ storable });
      const readers = [broadcast.openStream(), broadcast.openStream()];
      body.send("a");
      await settled();
      await readers[0].cancel();
      assert.deepEqual([aborted(), broadcast.readerCount], [false, 1]);
      await readers[1].cancel();
      assert.deepEqual([aborted(), broadcast.readerCount], [!storable, 0]);
      body.end();
      assert.equal(await broadcast.whenEnded, storable ? "" : "truncated");
    });
  }

  test("a body that is too large to store is aborted with the last of them", async () => {
    const { broadcast, body, aborted } = start();
    const readers = [broadcast.openStream(), broadcast.openStream()];
    body.send(`${KB}x`);
    await settled();
    await readers[0].cancel();
    assert.equal(aborted(), false);
    await readers[1].cancel();
    assert.equal(aborted(), true);
    assert.equal(await broadcast.whenEnded, "too-large");
  });

  test("nothing is aborted that has ended", async () => {
    const { broadcast, body, aborted } = start({ storable: false });
    const stream = broadcast.openStream();
    body.send("a");
    body.end();
    await broadcast.whenEnded;
    await stream.cancel();
    assert.equal(aborted(), false);
  });

  for (const [storable, maxBufferedBytes] of /** @type {any[][]} */ ([
    [false, MAX_BUFFERED_BYTES],
    [true, 0],
  ])) {
    test(`a piped leader counts as a reader until it disconnects (storable: ${storable})`, async () => {
      const { broadcast, body, client, aborted } = start({ leader: "piped", storable, maxBufferedBytes });
      const leader = drain(broadcast.leaderBody);
      const follower = maxBufferedBytes > 0 ? broadcast.openStream() : undefined;
      body.send("a");
      await settled();
      await follower?.cancel();
      assert.deepEqual([aborted(), leader.bytes], [false, 1]);
      client.abort();
      assert.equal(aborted(), true);
    });
  }

  test("a piped leader that disconnects leaves the body to its followers", async () => {
    const { broadcast, body, client, aborted } = start({ leader: "piped", storable: false });
    const leader = broadcast.leaderBody;
    const follower = broadcast.openStream();
    client.abort();
    await leader.cancel();
    body.send("abc");
    await settled();
    assert.equal(aborted(), false);
    body.end();
    assert.equal(await readText(follower), "abc");
  });

  test("a leader that reads the body as it came counts as a reader for good", async () => {
    const { broadcast, body, client, aborted } = start({ leader: "direct", storable: false });
    const follower = broadcast.openStream();
    body.send("a");
    await settled();
    client.abort();
    await follower.cancel();
    assert.equal(aborted(), false);
  });
});

describe("the leader's own branch", () => {
  test("does not exist unless it is requested", () => {
    assert.equal(start().broadcast.leaderBody, undefined);
  });

  for (const leader of ["piped", "direct"]) {
    test(`gives the whole body (${leader})`, async () => {
      const { broadcast, body } = start({ leader });
      for (const text of ["a", "b", "c"]) body.send(text);
      body.end();
      assert.equal(await readText(broadcast.leaderBody), "abc");
    });
  }

  test("of known length is checked against it", async () => {
    const { broadcast, body } = start({ leader: "piped", length: 4 });
    body.send("abc");
    body.end();
    await assert.rejects(readText(broadcast.leaderBody), /declared length/);
  });

  test("continues if it is handed over as it is and the body is too large to be read here", async () => {
    const { broadcast, body, aborted } = start({ leader: "direct" });
    const leader = drain(broadcast.leaderBody);
    for (let n = 1; n <= 5; n += 1) body.send(KB);
    body.end();
    assert.equal(await broadcast.whenEnded, "too-large");
    await settled();
    assert.deepEqual([aborted(), broadcast.bytesRead, leader.bytes, leader.ended], [false, undefined, 5_000, true]);
  });

  test("if piped, is watched up to 16 MiB, and continues after that", async () => {
    const { broadcast, body, aborted } = start({ leader: "piped" });
    const leader = drain(broadcast.leaderBody);
    const megabyte = "x".repeat(2 ** 20);
    for (let n = 1; n <= 16; n += 1) body.send(megabyte);
    await settled();
    for (let n = 1; n <= 40; n += 1) await pass(1_000);
    assert.deepEqual([broadcast.bytesRead, heldBytes(broadcast)], [2 ** 24, 0]);
    for (let n = 1; n <= 2; n += 1) body.send(megabyte);
    body.end();
    for (let n = 1; n <= 40; n += 1) await pass(1_000);
    assert.equal(await broadcast.whenEnded, "too-large");
    assert.deepEqual([broadcast.bytesRead, aborted()], [undefined, false]);
    assert.deepEqual([leader.bytes, leader.ended], [18 * 2 ** 20, true]);
  });

  test("waits for a follower that is slower, but not for longer than a second", async () => {
    const { broadcast, body, aborted } = start({ leader: "piped" });
    const leader = drain(broadcast.leaderBody);
    const follower = broadcast.openStream().getReader();
    for (let n = 1; n <= 5; n += 1) body.send(KB);
    await settled();
    const before = broadcast.bytesRead;
    assert.ok(before > MAX_BUFFERED_BYTES && before < 5_000, `${before} bytes have been read`);
    await pass(999);
    assert.equal(broadcast.bytesRead, before);
    await pass(1);
    assert.equal(broadcast.bytesRead, 5_000);
    assert.ok(heldBytes(broadcast) <= 2_000);
    await assert.rejects(
      readText({ [Symbol.asyncIterator]: () => ({ next: () => follower.read() }) }),
      /too far behind/,
    );
    assert.deepEqual([aborted(), leader.bytes], [false, 5_000]);
  });
});

describe("the pace", () => {
  test("of a body that only a piped leader reads: reads pause, longer and longer while little arrives", async () => {
    const { broadcast, body } = start({ leader: "piped", idleMs: 60_000, maxBufferedBytes: 1_000_000 });
    const leader = drain(broadcast.leaderBody);
    body.send("x");
    await settled();
    let expected = 1;
    for (const intervalMs of [250, 500, 1_000, 1_000]) {
      body.send("y".repeat(10));
      await settled();
      await pass(intervalMs - 1);
      assert.equal(broadcast.bytesRead, expected, `read before ${intervalMs} ms`);
      await pass(1);
      expected += 10;
      assert.equal(broadcast.bytesRead, expected, `not read after ${intervalMs} ms`);
    }
    assert.equal(leader.bytes, expected);
  });

  test("a follower that joins ends a pause, and there is none while it reads", async () => {
    const { broadcast, body } = start({ leader: "piped" });
    drain(broadcast.leaderBody);
    body.send("a");
    await settled();
    body.send("b");
    await settled();
    assert.equal(broadcast.bytesRead, 1);
    const follower = broadcast.openStream().getReader();
    await settled();
    assert.equal(broadcast.bytesRead, 2);
    body.send("c");
    await settled();
    assert.equal(broadcast.bytesRead, 3);
    assert.deepEqual([await readChunk(follower), await readChunk(follower)], ["a", "b"]);
  });

  test("the end of a piped leader's branch ends a pause", async () => {
    const { broadcast, body } = start({ leader: "piped" });
    drain(broadcast.leaderBody);
    body.send("a");
    await settled();
    body.send("b");
    body.end();
    await settled();
    assert.equal(await broadcast.whenEnded, "");
    assert.equal(broadcast.bytesRead, 2);
  });

  test("a body with no piped leader is read without pauses", async () => {
    for (const leader of [undefined, "direct"]) {
      const { broadcast, body } = start({ leader });
      for (const text of ["a", "b", "c"]) {
        body.send(text);
        await settled();
      }
      assert.equal(broadcast.bytesRead, 3);
    }
  });

  test("pauses are short again after much has arrived", async () => {
    const pace = new PollPace();
    const lengths = [];
    for (const bytesRead of [0, 0, 0, 65_536, 131_073, 131_073]) {
      let over = false;
      const pause = pace.pause(bytesRead).then(() => {
        over = true;
      });
      let ms = 0;
      for (; !over; ms += 250) await pass(250);
      lengths.push(ms);
      await pause;
    }
    assert.deepEqual(lengths, [250, 500, 1_000, 1_000, 250, 500]);
  });
});
