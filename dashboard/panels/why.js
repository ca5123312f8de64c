// The reasons for which requests were paid, and the settings that change them.
import { useState } from "preact/hooks";
import { counted, dollars, integer, percent } from "../format.js";
import { html } from "../html.js";
import { isSaved, outcomeOf } from "../outcomes.js";
import { Bar, Copyable, Panel } from "../parts.js";
import { NEW_KEY, remedyOf, remedyOfDifference } from "../remedies.js";

/** @import { ComponentChildren } from "preact" */
/** @import { Ledger, Row } from "../api.js" */
/** @import { Load } from "../hooks.js" */
/** @import { Remedy } from "../remedies.js" */

const FIRST = 6;

/** @typedef {{ id: string, remedy: Remedy, requests: number, usd: number | null, outcome: string, detail?: ComponentChildren }} Item */

/**
 * @param {{ load: Load<Ledger>, differences: Load<Ledger | null> }} props `differences`: null if the ledger does not count them
 */
export function Why({ load, differences }) {
  const items = load.data ? itemsOf(load.data.rows) : [];
  const requests = items.reduce((sum, item) => sum + item.requests, 0);
  const near = differences.data ? nearItems(differences.data.rows) : [];
  const best = [...items, ...near].filter(({ remedy }) => remedy.set && !remedy.fine).sort(byCost)[0];
  return html`<${Panel} id="why" title="Why not a hit" load=${load}
    hint="What was sent to a provider, by the reason that Cache-Status gave. The costliest comes first.">
    ${best && html`<${Best} item=${best} />`}
    ${
      items.length === 0
        ? html`<p class="nothing">Every request in this period was a hit, or there was none.</p>`
        : html`<${List} items=${items} whole=${requests} />`
    }
    ${near.length > 0 && html`<${Near} items=${near} />`}
  <//>`;
}

/** @param {{ item: Item }} props */
const Best = ({ item }) => html`<div class="best">
  <p><strong>Worth setting first.</strong> ${counted(item.requests, "request")}${item.usd ? ` and ${dollars(item.usd)}` : ""}: ${lower(item.remedy.title)}.</p>
  <${Copyable} text=${item.remedy.set} />
</div>`;

/** @param {string} title */
const lower = (title) => title.charAt(0).toLowerCase() + title.slice(1);

/** @param {Item} a @param {Item} b */
const byCost = (a, b) => (b.usd ?? 0) - (a.usd ?? 0) || b.requests - a.requests;

/** @param {Row[]} rows by outcome and reason @returns {Item[]} */
function itemsOf(rows) {
  const items = new Map();
  for (const row of rows) {
    const outcome = (row.outcome ?? "NONE").toUpperCase();
    if (row.requests === 0 || isSaved(outcome)) continue;
    const remedy = remedyOf(row.reason, outcome);
    const id = remedy === NEW_KEY ? "new" : `${outcome} ${row.reason ?? ""}`;
    const item = items.get(id) ?? { id, remedy, outcome, requests: 0, usd: 0, detail: row.reason };
    item.requests += row.requests;
    item.usd += row.usd_spent ?? 0;
    items.set(id, item);
  }
  return [...items.values()].sort(byCost);
}

/** @param {Row[]} rows by difference @returns {Item[]} */
function nearItems(rows) {
  return rows
    .flatMap((row) => {
      if (!row.difference || row.requests === 0) return [];
      const { paths, ...remedy } = remedyOfDifference(row.difference);
      const detail = paths.length > 0 ? paths.map((path) => html`<code key=${path}>${path}</code>`) : undefined;
      return [{ id: row.difference, remedy, detail, outcome: "MISS", requests: row.requests, usd: row.usd_spent }];
    })
    .sort((a, b) => Number(a.remedy.fine ?? false) - Number(b.remedy.fine ?? false) || byCost(a, b));
}

/** @param {{ items: Item[], whole: number, isNear?: boolean }} props */
function List({ items, whole, isNear = false }) {
  const [isAll, setAll] = useState(false);
  const shown = isAll ? items : items.slice(0, FIRST);
  return html`<ul class="reasons">
      ${shown.map((item) => html`<${Reason} key=${item.id} item=${item} whole=${whole} isNear=${isNear} />`)}
    </ul>
    ${items.length > FIRST && html`<button type="button" class="link" aria-expanded=${isAll} onClick=${() => setAll(!isAll)}>${isAll ? "Show fewer" : `Show all ${items.length}`}</button>`}`;
}

/** @param {{ item: Item, whole: number, isNear: boolean }} props */
function Reason({ item, whole, isNear }) {
  const { remedy, outcome, requests, usd, detail } = item;
  return html`<li>
    <div class="cost">
      <strong>${usd == null ? "" : dollars(usd)}</strong>
      <span>${counted(requests, "request")}</span>
      <${Bar} share=${requests / whole} kind=${isNear ? "" : `outcome-${outcome}`} />
      <span class="beside">${percent(requests, whole)}</span>
    </div>
    <div>
      <h3>${isNear ? html`${detail ?? ""} ${remedy.title}` : remedy.title}
        ${!isNear && html`<span class="tag">${outcomeOf(outcome)?.name ?? outcome}${detail ? html` · <code>${detail}</code>` : ""}</span>`}</h3>
      <p>${remedy.text}</p>
      ${remedy.set && html`<${Copyable} text=${remedy.set} />`}
    </div>
  </li>`;
}

/** @param {{ items: Item[] }} props */
function Near({ items }) {
  const whole = items.reduce((sum, item) => sum + item.requests, 0);
  return html`<h3 class="subtitle">Almost hits</h3>
    <p class="hint">${integer(whole)} of the new requests differ from an earlier one only in these parts.</p>
    <${List} items=${items} whole=${whole} isNear=${true} />`;
}
