// The exports of the compiled crate, for the type checker. The module index.js is made by `npm run build`.

/** The handler of requests. */
export function fetch(request: Request, env: unknown, ctx: ExecutionContext): Promise<Response>;

/** The fast path of the isolate. */
export function fastPath(): import("./fast_path.js").FastPath;

/** What the object of a set of samples answers: its new list of slots, the answer, and when the list is of no use any more. */
export function obeySamples(list: string, message: string, now: number, random: number): [string, string, number];
/** What sends the isolate's counts to the ledger. */
export function ledgerSender(): import("./ledger/sender.js").LedgerSender;

/** What has been counted since the last call, as JSON; undefined: nothing. */
export function takeBatch(): string | undefined;

/** The Durable Object. */
export class Coalescer {
  constructor(ctx: DurableObjectState, env: object);
  fetch(request: Request): Promise<Response>;
}

/** The state of the `worker` crate: whether a panic has ended the instance, and how many have begun. */
export function __worker_init_state(): { criticalError: boolean; instanceId: number };

/** Begins a new instance. */
export function __wbg_reset_state(): void;
