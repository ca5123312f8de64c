// The requests of a gateway: paths, model names, credentials, and the headers for lifetimes and the like. README.md lists the
// fields. Every field may be left out.

const MODELS = {
  model: "gpt-4o-mini",
  "other-model": "gpt-4o",
  "anthropic-model": "claude-sonnet-4-5",
  "embedding-model": "text-embedding-3-small",
  "moderation-model": "omni-moderation-latest",
  "image-model": "gpt-image-1",
  "speech-model": "tts-1",
  "rerank-model": "rerank-v3.5",
};

const TENANTS = {
  a: { authorization: "Bearer sk-tenant-a" },
  b: { authorization: "Bearer sk-tenant-b" },
};

// RFC 9111, section 5.2.1: every HTTP cache should understand these.
const STANDARD_CONTROLS = {
  noStore: { headers: { "cache-control": "no-store" } },
  refresh: { headers: { "cache-control": "no-cache" } },
  maxAge: { headers: { "cache-control": "max-age={value}" } },
  onlyIfCached: { headers: { "cache-control": "only-if-cached" } },
};

export function adapter(given = {}) {
  return {
    name: given.name ?? "target",
    base: given.base ?? "",
    headers: given.headers ?? {},
    body: given.body ?? {},
    paths: given.paths ?? {},
    apiHeaders: given.apiHeaders ?? {},
    models: { ...MODELS, ...given.models },
    tenants: given.tenants ?? TENANTS,
    controls: { ...STANDARD_CONTROLS, ...given.controls },
  };
}

/** Reprise's own adapter: the default of the profile `reprise`. */
export const REPRISE = {
  name: "reprise",
  controls: {
    ttl: { headers: { "x-proxy-ttl": "{value}" } },
    namespace: { headers: { "x-proxy-namespace": "{value}" } },
    match: { headers: { "x-proxy-match": "{value}" } },
    ignore: { headers: { "x-proxy-ignore": "{value}" } },
  },
};
