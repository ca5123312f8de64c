// Counts the calls into wasm and out of it: every instance that is made later gets wrapped imports and exports.
export const count = { into: 0, out: 0 };

const { Instance } = WebAssembly;

const wrapped = (functions, direction) =>
  Object.fromEntries(
    Object.entries(functions).map(([name, value]) => [
      name,
      typeof value !== "function"
        ? value
        : (...args) => {
            count[direction] += 1;
            return value(...args);
          },
    ]),
  );

/** @type {any} */ (WebAssembly).Instance = function counted(module, imports) {
  const outer = Object.fromEntries(
    Object.entries(imports).map(([name, functions]) => [name, wrapped(functions, "out")]),
  );
  return { exports: wrapped(new Instance(module, outer).exports, "into") };
};
