// How a target is spoken to: paths, model names, credentials, and how it is told about lifetimes and the like. README.md
// lists the fields; everything may be left out.

const MODELS = {
  model: 'gpt-4o-mini',
  'other-model': 'gpt-4o',
  'anthropic-model': 'claude-sonnet-4-5',
  'embedding-model': 'text-embedding-3-small',
  'moderation-model': 'omni-moderation-latest',
  'image-model': 'gpt-image-1',
  'speech-model': 'tts-1',
  'rerank-model': 'rerank-v3.5',
};

const PARTIES = {
  a: { authorization: 'Bearer sk-conformance-a' },
  b: { authorization: 'Bearer sk-conformance-b' },
};

// RFC 9111, section 5.2.1: any HTTP cache may be asked these.
const STANDARD = {
  noStore: { headers: { 'cache-control': 'no-store' } },
  refresh: { headers: { 'cache-control': 'no-cache' } },
  maxAge: { headers: { 'cache-control': 'max-age={value}' } },
  onlyIfCached: { headers: { 'cache-control': 'only-if-cached' } },
};

export function adapter(given = {}) {
  return {
    name: given.name ?? 'target',
    base: given.base ?? '',
    headers: given.headers ?? {},
    body: given.body ?? {},
    paths: given.paths ?? {},
    apiHeaders: given.apiHeaders ?? {},
    lacks: given.lacks ?? [],
    models: { ...MODELS, ...given.models },
    parties: given.parties ?? PARTIES,
    controls: { ...STANDARD, ...given.controls },
  };
}

/** What `reprise` calls these things; also the default of the profile of that name. */
export const REPRISE = {
  name: 'reprise',
  controls: {
    ttl: { headers: { 'x-proxy-ttl': '{value}' } },
    namespace: { headers: { 'x-proxy-namespace': '{value}' } },
    match: { headers: { 'x-proxy-match': '{value}' } },
    ignore: { headers: { 'x-proxy-ignore': '{value}' } },
  },
};
