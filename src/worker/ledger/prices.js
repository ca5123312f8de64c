// What tokens cost. The prices come from @pydantic/genai-prices; `PRICES` comes before them.

/** @typedef {{ input: number, output: number, cached_input: number, cache_write: number }} Tokens */
/** @typedef {(tokens: Tokens) => number} Price What tokens cost, in dollars. */
/** @typedef {Partial<Record<keyof Tokens, number>>} Override Dollars for a million tokens. */
/**
 * @typedef {object} PriceTable
 * @property {string} version
 * @property {(provider: string, model: string, at: number) => Price | undefined} price The price of a model at a time in
 *   milliseconds since 1970; undefined if it is not known.
 */
/**
 * @typedef {(usage: Record<string, number>, model: string, options: { providerId: string, timestamp: Date })
 *   => { total_price: number, model_price: Record<string, unknown> } | null} CalcPrice
 */

const MILLION = 1e6;
/** A sample of this many tokens has the price of short requests, where long ones cost more. */
const SAMPLE = 1_000;
/** Providers that the package names otherwise. */
/** @type {Record<string, string>} */
const PROVIDER_IDS = { xai: "x-ai" };

/** @param {string} pattern */
function glob(pattern) {
  const escaped = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${escaped.join(".*")}$`, "i");
}

/**
 * @param {object} source
 * @param {CalcPrice} source.calcPrice
 * @param {string} source.version
 * @param {Record<string, Override>} overrides `PRICES`: patterns of `provider/model`. The first that matches counts.
 * @returns {PriceTable}
 */
export function createPriceTable({ calcPrice, version }, overrides) {
  const patterns = Object.entries(overrides).map(([pattern, override]) => ({ matches: glob(pattern), override }));
  /** @type {Map<string, Price | undefined>} */
  const known = new Map();
  return {
    version,
    price(provider, model, at) {
      if (model === "") return undefined;
      const id = JSON.stringify([provider, model, at]);
      if (!known.has(id)) {
        const found = patterns.find(({ matches }) => matches.test(`${provider}/${model}`));
        known.set(id, found ? overridden(found.override) : published(calcPrice, provider, model, at));
      }
      return known.get(id);
    },
  };
}

/** @param {Override} override @returns {Price} */
function overridden({ input = 0, output = 0, cached_input = input, cache_write = input }) {
  return (tokens) =>
    (plainInput(tokens) * input +
      tokens.output * output +
      tokens.cached_input * cached_input +
      tokens.cache_write * cache_write) /
    MILLION;
}

/** The input that the provider neither read from nor wrote to its own cache. @param {Tokens} tokens */
const plainInput = ({ input, cached_input, cache_write }) => Math.max(0, input - cached_input - cache_write);

/**
 * @param {CalcPrice} calcPrice
 * @param {string} provider
 * @param {string} model
 * @param {number} at
 * @returns {Price | undefined}
 */
function published(calcPrice, provider, model, at) {
  const options = { providerId: PROVIDER_IDS[provider] ?? provider, timestamp: new Date(at) };
  /** @param {Record<string, number>} usage */
  const each = (usage) => {
    const price = calcPrice(usage, model, options);
    // Some models are charged by the second, the page or the request.
    const isByToken = price?.model_price.input_mtok !== undefined || price?.model_price.output_mtok !== undefined;
    return price && isByToken ? price.total_price / SAMPLE : undefined;
  };
  try {
    const input = each({ input_tokens: SAMPLE });
    const output = each({ output_tokens: SAMPLE });
    const cached = each({ input_tokens: SAMPLE, cache_read_tokens: SAMPLE });
    const written = each({ input_tokens: SAMPLE, cache_write_tokens: SAMPLE });
    if (input === undefined || output === undefined) return undefined;
    return (tokens) =>
      plainInput(tokens) * input +
      tokens.output * output +
      tokens.cached_input * (cached ?? input) +
      tokens.cache_write * (written ?? input);
  } catch {
    // The package throws where a model has no price for tokens.
    return undefined;
  }
}
