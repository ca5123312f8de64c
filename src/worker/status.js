// What `/admin/status` says.

/** The variables of the README. */
const SETTINGS = [
  ...["OPENAI_BASE_URL", "UPSTREAMS", "PROXY_PATH_PREFIX", "OPENAI_API_KEY", "PROXY_TOKENS", "ADMIN_TOKEN"],
  ...["ALLOW_ANONYMOUS", "CACHE_TTL", "CACHE_MAX_TTL", "CACHE_SCOPE", "CACHE_MATCH", "CACHE_PATHS", "KEY_IGNORE"],
  ...["CACHE_MAX_BYTES", "CACHE_ENCRYPTION_KEY", "RESPOND_WITH_CACHE", "STORE_CACHE", "STALE_IF_ERROR"],
  ...["STALE_WHILE_REVALIDATE", "COALESCE", "COALESCE_TTL", "STORE_TIMEOUT_MS", "MEMORY_CACHE_BYTES"],
  ...["MEMORY_CACHE_TTL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN", "TIMEOUT", "IDLE_TIMEOUT"],
  ...["MAX_RETRIES", "BASE_RETRY_DELAY", "RATE_LIMIT_WAIT", "OVERRIDE_MODEL", "LLM_PARAMS", "STRIP_THINK"],
  ...["THINK_TAG", "THINK_END_TAG", "USAGE_ON_HIT", "PRICES", "DEBUG"],
];
/** Variables that are shown only if they are set: other names, those of other versions, and other providers' keys. */
const SHOWN_IF_SET =
  /^(TARGET_BASE_URL|API_REQUEST_TIMEOUT|CACHE_WHEN|CACHE_ADMISSION|DIALECTS|EMBED_ITEMS|[A-Z0-9_]+_API_KEY)$/;
const SECRET = /^(PROXY_TOKENS|ADMIN_TOKEN|CACHE_ENCRYPTION_KEY|UPSTASH_REDIS_REST_TOKEN|[A-Z0-9_]+_API_KEY)$/;

/**
 * The variables. Of a secret, only whether it is set.
 *
 * @param {Record<string, unknown>} env
 */
export function settings(env) {
  const others = Object.keys(env).filter((name) => SHOWN_IF_SET.test(name) && !SETTINGS.includes(name));
  return [...SETTINGS, ...others].map((name) => {
    const value = env[name] ?? null;
    const secret = SECRET.test(name);
    const text = value === null || typeof value === "string" ? value : JSON.stringify(value);
    return { name, value: secret ? null : text, source: value === null ? "default" : "set", secret };
  });
}

/**
 * Sums of the counters of `/metrics`.
 *
 * @param {string} scope "ledger" or "isolate"
 * @param {[string, number][]} samples
 */
export function counters(scope, samples) {
  /** @param {string} prefix */
  const sum = (prefix) => samples.filter(([name]) => name.startsWith(prefix)).reduce((total, [, n]) => total + n, 0);
  const notStored = samples.flatMap(([name, n]) => {
    const [, reason] = /^not_stored\{reason="([^"]*)"\}$/.exec(name) ?? [];
    return reason === undefined ? [] : [[reason, n]];
  });
  return {
    scope,
    requests: sum("requests{"),
    upstream_requests: sum("upstream_requests"),
    retries: sum("upstream_retries"),
    store_errors: sum('reasons{reason="store-error"}'),
    store_timeouts: sum('reasons{reason="store-timeout"}'),
    entries_corrupt: sum('reasons{reason="entry-corrupt"}'),
    not_stored: Object.fromEntries(notStored),
  };
}

/**
 * The status, as JSON.
 *
 * @param {Record<string, unknown>} env
 * @param {string} facts JSON: version, store, coalescing, and the counters of this isolate
 * @param {string | undefined} ledger What the ledger answers. Undefined: it is not bound, or fails.
 * @param {boolean} isBound Whether the ledger is bound.
 */
export function statusJson(env, facts, ledger, isBound) {
  const { samples, ...status } = JSON.parse(facts);
  const answer = ledger === undefined ? undefined : JSON.parse(ledger);
  const { totals, ...known } = answer ?? {};
  return JSON.stringify({
    ...status,
    ledger: answer ? { ok: true, ...known } : isBound ? { ok: false } : null,
    counters: answer ? counters("ledger", totals) : counters("isolate", samples),
    settings: settings(env),
    warnings: [],
  });
}
