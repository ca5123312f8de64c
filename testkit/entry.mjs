// A stored entry: read it, write it, make it look older. Entries outlive a deployment, so their encoding is part of the
// product's promise, and the tests define it a second time:
//
//   0..4 "RPRS" · 4 version · 5..9 length of the head, big-endian · 9..41 SHA-256 of the rest · head (JSON) ·
//   sketch (head.sketch_len bytes) · body

import { createHash } from "node:crypto";

const VERSION = 4;
export const VERSION_AT = 4;
export const DIGEST_AT = 9;
export const HEAD_AT = 41;

export function decodeEntry(bytes) {
  const magic = bytes.toString("latin1", 0, 4);
  if (magic !== "RPRS" || bytes[VERSION_AT] !== VERSION) {
    throw new Error(`not an entry of version ${VERSION}: ${bytes.toString("hex", 0, 16)}…`);
  }
  const sketchAt = HEAD_AT + bytes.readUInt32BE(5);
  const digest = createHash("sha256").update(bytes.subarray(HEAD_AT)).digest();
  if (!digest.equals(bytes.subarray(DIGEST_AT, HEAD_AT))) throw new Error("the entry's digest is wrong");
  const head = JSON.parse(bytes.toString("utf8", HEAD_AT, sketchAt));
  const bodyAt = sketchAt + head.sketch_len;
  return { head, sketch: bytes.subarray(sketchAt, bodyAt), body: bytes.subarray(bodyAt) };
}

export function encodeEntry({ head, sketch = Buffer.alloc(0), body }) {
  const encodedHead = Buffer.from(JSON.stringify({ ...head, sketch_len: sketch.length }));
  const rest = Buffer.concat([encodedHead, sketch, body]);
  const prefix = Buffer.alloc(HEAD_AT);
  prefix.write("RPRS", "latin1");
  prefix[VERSION_AT] = VERSION;
  prefix.writeUInt32BE(encodedHead.length, 5);
  createHash("sha256").update(rest).digest().copy(prefix, DIGEST_AT);
  return Buffer.concat([prefix, rest]);
}

/** Moves every entry in the Worker's store `seconds` into the past. */
export async function ageEntries(worker, seconds) {
  for (const [key, bytes, metadata] of await worker.entries()) {
    const { head, sketch, body } = decodeEntry(bytes);
    head.stored_at -= seconds * 1000;
    for (const time of ["expires_at", "valid_until"]) {
      if (head[time] !== null) head[time] -= seconds * 1000;
    }
    await worker.kv.put(key, encodeEntry({ head, sketch, body }), { metadata });
  }
}
