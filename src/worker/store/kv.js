// What is in KV: bytes, undefined where there is nothing, or the reason why it cannot tell.
export function look(kv, name, timeout) {
  return new Promise((resolve) => {
    const told = (value) => {
      clearTimeout(timer);
      resolve(value);
    };
    const timer = setTimeout(resolve, timeout, "store-timeout");
    const failed = () => told("store-error");
    try {
      kv.get(name, "arrayBuffer").then((value) => told(value ? new Uint8Array(value) : undefined), failed);
    } catch {
      failed();
    }
  });
}

// What the operator does to a namespace is rare: it may as well not weigh on the wasm.

// How many entries of this name there were, as far as this place knows. Now there is none.
export async function forget(kv, name) {
  const body = await kv.get(name, "stream");
  await body?.cancel();
  await kv.delete(name);
  return body ? 1 : 0;
}

// Forgets the next entries with a prefix, at most `limit`. The cursor is undefined at the end.
export async function purge(kv, prefix, cursor, limit) {
  const { keys, list_complete: complete, cursor: next } = await kv.list({ prefix, cursor, limit });
  await Promise.all(keys.map(({ name }) => kv.delete(name)));
  return [keys.length, complete ? undefined : next];
}
