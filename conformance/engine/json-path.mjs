// Members named by dotted paths. Numbers are indices of arrays.

/** A copy of `object` with these members, path → value. Texts pass through `fill`. */
export function withSet(object, set, fill = (text) => text) {
  const copy = structuredClone(object);
  for (const [path, value] of Object.entries(set)) {
    const names = path.split(".");
    const last = names.pop();
    let parent = copy;
    for (const [i, name] of names.entries()) {
      if (parent[name] === undefined) parent[name] = /^\d+$/.test(names[i + 1] ?? last) ? [] : {};
      parent = parent[name];
    }
    parent[last] = typeof value === "string" ? fill(value) : value;
  }
  return copy;
}

/** Removes a member in place. */
export function removePath(object, path) {
  const names = path.split(".");
  const last = names.pop();
  const parent = names.reduce((inner, name) => inner?.[name], object);
  if (Array.isArray(parent)) parent.splice(Number(last), 1);
  else if (parent) delete parent[last];
}

export const valueAt = (object, path) => path.split(".").reduce((inner, name) => inner?.[name], object);
