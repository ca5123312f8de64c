// The signals that end a command.

const SIGNALS = /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]);

/** Promises of the first signal that ends the command, and of the second. */
export function interruption() {
  let count = 0;
  /** @type {(() => void)[]} */
  const resolvers = [];
  /** @type {Promise<undefined>[]} */
  const [once, twice] = [0, 1].map((n) => new Promise((resolve) => (resolvers[n] = () => resolve(undefined))));
  const onSignal = () => resolvers[count++]?.();
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return {
    once,
    twice,
    off() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
    },
  };
}
