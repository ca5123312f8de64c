// Every name of the product that the tests and measurements use and that the product may rename.

/** The name of this cache in `Cache-Status` (RFC 9211). */
export const CACHE_NAME = "reprise";

/** Bindings and exported classes, as wrangler.toml declares them. */
export const BINDING = {
  store: "OPENAI_CACHE",
  coalescer: "COALESCER",
  ledger: "LEDGER",
  rateLimit: "RATE_LIMIT",
};

/** The Durable Object class that coalesces requests. */
export const COALESCER_CLASS = "Coalescer";

/** The Durable Object class that adds up what the cache saved. */
export const LEDGER_CLASS = "Ledger";

/** Fields of a log line. */
export const LOG = {
  method: "method",
  route: "route",
  upstreamMs: "upstream_ms",
  coalesceRole: "coalesce_role",
  waitedMs: "waited_ms",
  notStored: "not_stored",
};

/** Values of the log field `LOG.coalesceRole`. */
export const ROLE = { leader: "leader", follower: "follower" };

/** `detail` of `Cache-Status`: a hit that was served by the Durable Object or from the isolate's memory. */
export const DETAIL = { coalescer: "coalesced", memory: "memory" };

/** The header by which the Durable Object tells the Worker what to do. Clients and upstreams never see it. */
export const DISPOSITION_HEADER = "x-reprise-disposition";

/** Metrics. */
export const METRIC = { fastPathHits: "reprise_fast_path_hits_total" };
