// A month of traffic like that of a team: an assistant, an evaluation, a search index, and an agent. Every number follows from a seed.
import { randomNumbers } from "../../../testkit/random.mjs";

const HOUR = 3_600_000;

/** Dollars for a million tokens, as `PRICES` has them. The model of one's own has none. */
export const PRICES = {
  "*/gpt-5.6": { input: 1.25, output: 10 },
  "*/gpt-5.6-mini": { input: 0.25, output: 2 },
  "*/claude-sonnet-5": { input: 3, output: 15 },
  "*/gemini-3-pro": { input: 1.5, output: 9 },
  "*/text-embedding-3-large": { input: 0.13, output: 0 },
};
/** What so many tokens cost, if their price is known. */
function costOf(model, input, output) {
  const price = PRICES[`*/${model}`];
  return price && (input * price.input + output * price.output) / 1e6;
}

/** Requests of one kind: how many an hour at noon, and what the cache does with them. */
const KINDS = [
  {
    ...{ provider: "openai", endpoint: "chat/completions", model: "gpt-5.6", namespace: "assistant" },
    ...{ rate: 42, input: 2_900, output: 420, ms: 5_200, busy: "office" },
    outcomes: { HIT: 58, COALESCED: 3, MISS: 27, EXPIRED: 5, REFRESH: 1, BYPASS: 0.6, STALE: 0.4 },
  },
  {
    ...{ provider: "openai", endpoint: "chat/completions", model: "gpt-5.6-mini", namespace: "eval-nightly" },
    ...{ rate: 120, input: 1_400, output: 180, ms: 1_900, busy: "night" },
    outcomes: { HIT: 86, COALESCED: 2, MISS: 11, REFRESH: 1 },
  },
  {
    ...{ provider: "anthropic", endpoint: "messages", model: "claude-sonnet-5", namespace: "agent" },
    ...{ rate: 16, input: 21_000, output: 900, ms: 11_500, busy: "office" },
    outcomes: { HIT: 31, COALESCED: 1, MISS: 64, BYPASS: 4 },
  },
  {
    ...{ provider: "google", endpoint: "generateContent", model: "gemini-3-pro", namespace: "" },
    ...{ rate: 9, input: 5_200, output: 640, ms: 7_000, busy: "office" },
    outcomes: { HIT: 44, MISS: 48, EXPIRED: 8 },
  },
  {
    ...{ provider: "openai", endpoint: "embeddings", model: "text-embedding-3-large", namespace: "search" },
    ...{ rate: 60, input: 3_800, output: 0, ms: 380, busy: "always" },
    outcomes: { HIT: 71, PARTIAL: 12, MISS: 17 },
  },
  {
    ...{ provider: "ours", endpoint: "chat/completions", model: "in-house-7b", namespace: "" },
    ...{ rate: 2, input: 800, output: 200, ms: 1_200, busy: "always" },
    outcomes: { HIT: 50, MISS: 50 },
  },
];

const REASONS = { EXPIRED: "expired", REFRESH: "refresh", STALE: "upstream-error" };
/** The share of misses that nearly hit, by the namespace and what differs. */
const DIFFERENCES = {
  assistant: [
    [0.22, "system;volatile-time"],
    [0.14, "user metadata;identity-only"],
    [0.2, "messages[].content"],
    [0.05, "temperature"],
  ],
  agent: [
    [0.3, "headers.x-session-id"],
    [0.25, "messages[].content"],
    [0.08, "tools[].description"],
    [0.04, "many"],
  ],
  "eval-nightly": [
    [0.2, "model"],
    [0.1, "messages[].content;volatile-path"],
  ],
};

/** How busy an hour is, from 0 to 1. */
function activity(busy, date) {
  const hour = date.getUTCHours();
  const isWeekend = [0, 6].includes(date.getUTCDay());
  if (busy === "night") return hour >= 1 && hour < 5 ? 1 : 0;
  if (busy === "always") return 0.5 + 0.5 * Math.sin(((hour - 5) / 24) * 2 * Math.PI) * (isWeekend ? 0.4 : 1);
  return (isWeekend ? 0.18 : 1) * Math.max(0.04, Math.sin(((hour - 6) / 14) * Math.PI));
}

/** What the ledger would hold: one object for each hour, kind, outcome, reason and difference. */
export function traffic({ until, days = 30, seed = 7, growth = 0.5 }) {
  const next = randomNumbers(seed);
  const rows = [];
  const end = Math.floor(until / HOUR) * HOUR;
  const hours = days * 24;
  for (let i = 0; i < hours; i += 1) {
    const time = end - (hours - 1 - i) * HOUR;
    const grown = 1 - growth + growth * (i / hours);
    for (const kind of KINDS) {
      const requests = kind.rate * grown * activity(kind.busy, new Date(time)) * (0.7 + 0.6 * next());
      for (const [outcome, share] of Object.entries(kind.outcomes)) {
        const learned = outcome === "MISS" ? 1.35 - 0.5 * (i / hours) : 1;
        const count = Math.floor((requests * share * learned) / 100 + next());
        if (count > 0) rows.push(...split(kind, outcome, time, count, next));
      }
    }
  }
  return rows;
}

function split(kind, outcome, time, count, next) {
  const reasons =
    outcome === "BYPASS" ? (kind.namespace === "agent" ? "server-state" : "no-store") : (REASONS[outcome] ?? null);
  const parts = [];
  let rest = count;
  if (outcome === "MISS") {
    for (const [share, difference] of DIFFERENCES[kind.namespace] ?? []) {
      const near = Math.min(rest, Math.floor(count * share + next()));
      if (near > 0) parts.push(rowOf(kind, outcome, time, near, null, difference));
      rest -= near;
    }
    if (rest > 3 && next() < 0.05) {
      parts.push(rowOf(kind, outcome, time, 1, "store-timeout", null));
      rest -= 1;
    }
  }
  if (rest > 0) parts.push(rowOf(kind, outcome, time, rest, reasons, null));
  return parts;
}

function rowOf(kind, outcome, time, count, reason, difference) {
  const { provider, endpoint, model, namespace, input, output, ms } = kind;
  const isSaved = ["HIT", "COALESCED", "STALE", "UPDATING"].includes(outcome);
  const cost = costOf(model, count * input, count * output);
  const usd = cost ?? 0;
  const tokens = { input: input * count, output: output * count };
  const none = { input: 0, output: 0 };
  return {
    ...{ time, provider, endpoint, model, namespace, outcome, reason, difference },
    requests: count,
    hits: isSaved && outcome !== "COALESCED" ? count : 0,
    coalesced: outcome === "COALESCED" ? count : 0,
    bytes: count * (output * 6 + 900),
    tokens_saved: isSaved ? tokens : none,
    tokens_spent: isSaved ? none : tokens,
    usd_saved: isSaved ? usd : 0,
    usd_spent: isSaved ? 0 : usd,
    unpriced_requests: cost === undefined ? count : 0,
    seconds_saved: isSaved ? (count * ms) / 1000 : 0,
    seconds_spent: isSaved ? 0 : (count * ms) / 1000,
  };
}

const WORDS = ["chatcmpl", "req", "resp"];
const hex = (next, digits) => Array.from({ length: digits }, () => Math.floor(next() * 16).toString(16)).join("");

/** The entries of such traffic, the busiest first. */
export function entriesOf({ until, count, seed = 11 }) {
  const next = randomNumbers(seed);
  return Array.from({ length: count }, (_, i) => {
    const kind = KINDS[Math.floor(next() ** 1.6 * KINDS.length)];
    const hits = Math.max(1, Math.floor(2400 / (i + 1.6) ** 0.86));
    const stored = until - Math.floor(next() ** 2 * 40 * 24 * HOUR) - 90_000;
    return {
      key: hex(next, 64),
      ...{ provider: kind.provider, endpoint: kind.endpoint, model: kind.model, namespace: kind.namespace },
      hits,
      bytes: Math.floor(kind.output * (3 + 4 * next()) + 700),
      tokens_saved: { input: kind.input * hits, output: kind.output * hits },
      usd_saved: costOf(kind.model, hits * kind.input, hits * kind.output) ?? null,
      stored_at: new Date(stored).toISOString(),
      last_used_at: new Date(until - Math.floor(next() * 3 * HOUR)).toISOString(),
      expires_at: i % 4 === 3 ? null : new Date(until + Math.floor(next() * 30 * 24 * HOUR)).toISOString(),
      kind,
      id: `${WORDS[i % 3]}_${hex(next, 12)}`,
    };
  });
}
