// The module prices.js, made by `npm run build`: the price table with the data of @pydantic/genai-prices.

/** The price table. `overrides`: `PRICES`. */
export function priceTable(
  overrides: Record<string, import("./ledger/prices.js").Override>,
): import("./ledger/prices.js").PriceTable;
