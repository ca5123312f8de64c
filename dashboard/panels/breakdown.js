// Savings and spending of each model, endpoint, namespace and provider.
import { useState } from "preact/hooks";
import { compact, dollars, duration, integer, percent } from "../format.js";
import { html } from "../html.js";
import { Bar, Choice, Copyable, Panel, Scroll } from "../parts.js";

/** @import { Dimension, Ledger, Row } from "../api.js" */
/** @import { Load } from "../hooks.js" */

const FIRST = 8;

/** @type {{ id: Dimension, label: string, none: string }[]} */
export const DIMENSIONS = [
  { id: "model", label: "Model", none: "no model" },
  { id: "endpoint", label: "Endpoint", none: "unknown" },
  { id: "namespace", label: "Namespace", none: "no namespace" },
  { id: "provider", label: "Provider", none: "none" },
];

/** @typedef {{ id: string, name: string, text: string, value: (row: Row) => number, show: (row: Row) => unknown }} Column */

/** @param {Row} row */
const served = (row) => row.hits + row.coalesced;
/** @param {Row} row */
const tokens = ({ tokens_saved }) => tokens_saved.input + tokens_saved.output;

/** @type {Column[]} */
const COLUMNS = [
  {
    id: "requests",
    name: "Requests",
    text: "All requests, hits included",
    value: (row) => row.requests,
    show: (row) => integer(row.requests),
  },
  {
    id: "rate",
    name: "Hit rate",
    text: "The share that was served from the cache or shared",
    value: (row) => served(row) / row.requests,
    show: (row) => html`<${Bar} share=${served(row) / row.requests} /> ${percent(served(row), row.requests)}`,
  },
  {
    id: "saved",
    name: "Saved",
    text: "Dollars not spent",
    value: (row) => row.usd_saved ?? 0,
    show: (row) => money(row, row.usd_saved),
  },
  {
    id: "spent",
    name: "Spent",
    text: "Dollars spent on what was no hit",
    value: (row) => row.usd_spent ?? 0,
    show: (row) => money(row, row.usd_spent),
  },
  {
    id: "tokens",
    name: "Tokens saved",
    text: "Input and output tokens not bought",
    value: tokens,
    show: (row) => compact(tokens(row)),
  },
  {
    id: "waiting",
    name: "Waiting saved",
    text: "Seconds of the provider's time",
    value: (row) => row.seconds_saved ?? 0,
    show: (row) => duration(row.seconds_saved),
  },
];

/** Whether tokens are known and their price is not. @param {Row} row */
const isUnpriced = ({ unpriced_requests, usd_saved, usd_spent, tokens_saved: saved, tokens_spent: spent }) =>
  unpriced_requests > 0 && !usd_saved && !usd_spent && saved.input + saved.output + spent.input + spent.output > 0;

/** @param {Row} row @param {number | null} usd */
function money(row, usd) {
  if (isUnpriced(row)) return html`<span class="warn">no price</span>`;
  return dollars(usd);
}

const MAX_NAMED = 5;

/** The setting that gives these models a price. @param {{ rows: Row[], dimension: Dimension }} props */
function Prices({ rows, dimension }) {
  const unpriced = rows.filter((row) => row.model && isUnpriced(row));
  if (dimension !== "model" || unpriced.length === 0) return null;
  const prices = unpriced
    .slice(0, MAX_NAMED)
    .map(({ model }) => [`*/${model}`, { input: 0, output: 0, cached_input: 0 }]);
  return html`<div class="note"><p>No price is known for ${unpriced.length === 1 ? "one model" : "some models"}. Set it in dollars for a million tokens:</p>
    <${Copyable} text=${`PRICES=${JSON.stringify(Object.fromEntries(prices))}`} /></div>`;
}

/**
 * @param {{ load: Load<Ledger & { dimension: Dimension }>, dimension: Dimension, onChange: (id: string) => void }} props `dimension`: the
 *   selected one; the data may still be of the last one
 */
export function Breakdown({ load, dimension, onChange }) {
  const shown = DIMENSIONS.find(({ id }) => id === load.data?.dimension) ?? DIMENSIONS[0];
  const tools = html`<${Choice} label="Group by" options=${DIMENSIONS} value=${dimension} onChange=${onChange} />`;
  return html`<${Panel} id="breakdown" title=${`By ${shown.label.toLowerCase()}`} load=${load} tools=${tools}>
    ${load.data && html`<${Content} rows=${load.data.rows} dimension=${shown} />`}
  <//>`;
}

/** @param {{ rows: Row[], dimension: (typeof DIMENSIONS)[number] }} props */
function Content({ rows, dimension }) {
  const [order, setOrder] = useState("requests");
  const [isAll, setAll] = useState(false);
  const column = COLUMNS.find(({ id }) => id === order) ?? COLUMNS[0];
  const own = rows.filter((row) => row[dimension.id] !== undefined && row.requests > 0);
  const sorted = own.sort((a, b) => column.value(b) - column.value(a));
  if (sorted.length === 0) return html`<p class="nothing">No requests in this period.</p>`;
  const shown = isAll ? sorted : sorted.slice(0, FIRST);
  return html`<${Scroll} label=${`Savings by ${dimension.label.toLowerCase()}`}>
      <table class="sortable">
        <caption class="visually-hidden">Requests, savings and spending by ${dimension.label.toLowerCase()}</caption>
        <thead><tr><th scope="col">${dimension.label}</th>
          ${COLUMNS.map(
            ({
              id,
              name,
              text,
            }) => html`<th scope="col" class="number" key=${id} aria-sort=${id === order ? "descending" : undefined}>
              <button type="button" title=${`${text}. Sort by this.`} onClick=${() => setOrder(id)}>${name}<span aria-hidden="true">${id === order ? " ↓" : ""}</span></button>
            </th>`,
          )}</tr></thead>
        <tbody>${shown.map(
          (
            row,
          ) => html`<tr key=${row[dimension.id]}><th scope="row" title=${row[dimension.id] ?? ""}>${row[dimension.id] || html`<i>${dimension.none}</i>`}</th>
            ${COLUMNS.map(({ id, show }) => html`<td class="number" key=${id}>${show(row)}</td>`)}</tr>`,
        )}</tbody>
      </table>
    <//>
    <${Prices} rows=${sorted} dimension=${dimension.id} />
    ${sorted.length > FIRST && html`<button type="button" class="link" aria-expanded=${isAll} onClick=${() => setAll(!isAll)}>${isAll ? "Show fewer" : `Show all ${sorted.length}`}</button>`}`;
}
