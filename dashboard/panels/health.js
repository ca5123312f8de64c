// The state of the store and the ledger, and the settings.
import { useState } from "preact/hooks";
import { compact, counted, duration, instant, integer } from "../format.js";
import { html } from "../html.js";
import { Panel, Scroll } from "../parts.js";
import { remedyOf } from "../remedies.js";

/** @import { Status } from "../api.js" */
/** @import { Load } from "../hooks.js" */

/** @param {{ load: Load<Status> }} props */
export function Health({ load }) {
  return html`<${Panel} id="health" title="Health" load=${load} hint="The store, the ledger, what went wrong, and the settings as they were read.">
    ${load.data && html`<${Content} status=${load.data} />`}
  <//>`;
}

const STORES = { kv: "Workers KV", upstash: "Upstash Redis", folder: "Folder on this machine", none: "None" };

/** @param {{ status: Status }} props */
function Content({ status }) {
  const { store, ledger, counters = {}, warnings = [], settings = [], coalescing, version } = status;
  const stored = Object.entries(counters.not_stored ?? {}).sort(([, a], [, b]) => b - a);
  return html`${warnings.map(({ code, text }) => html`<p class="warning" key=${code}><strong>Check this.</strong> ${text}</p>`)}
    <div class="lamps">
      ${
        store &&
        html`<${Lamp} name="Store" ok=${store.kind === "none" ? false : (store.ok ?? null)} value=${STORES[/** @type {keyof typeof STORES} */ (store.kind)] ?? store.kind}
        detail=${storeDetail(store)} />`
      }
      <${Lamp} name="Ledger" ok=${ledger === undefined ? null : ledger?.ok === true} value=${ledger === null ? "Not bound" : ledger?.ok === false ? "Fails" : "Counts"}
        detail=${ledger?.since ? `since ${instant(ledger.since)}` : ledger === null ? "Bind LEDGER to count across isolates." : ""} />
      <${Lamp} name="Coalescing" ok=${coalescing === false ? null : true} value=${coalescing === false ? "Off" : "On"}
        detail=${coalescing === false ? "Equal requests in flight are each paid." : "Equal requests in flight are paid once."} />
      <${Lamp} name="Version" ok=${null} value=${version} detail="" />
    </div>
    <div class="columns">
      <div>
        <h3>Went wrong</h3>
        <dl class="facts">
          <${Fact} name="Retries of upstream requests" value=${counters.retries} whole=${counters.upstream_requests} />
          <${Fact} name="Errors of the store" value=${counters.store_errors} whole=${counters.requests} />
          <${Fact} name="Store too slow" value=${counters.store_timeouts} whole=${counters.requests} />
          <${Fact} name="Unreadable entries" value=${counters.entries_corrupt} whole=${counters.requests} />
        </dl>
        ${counters.scope && html`<p class="hint">Counted ${counters.scope === "ledger" ? "by the ledger, over all isolates" : "by the isolate that responded, since it began"}.</p>`}
      </div>
      <div>
        <h3>Not stored</h3>
        ${
          stored.length === 0
            ? html`<p class="nothing">Every complete response was stored.</p>`
            : html`<ul class="not-stored">${stored.map(([reason, count]) => {
                const { title, text, set } = remedyOf(reason);
                return html`<li key=${reason}><b class="number">${compact(count)}</b><span><strong>${title}</strong> <code>${reason}</code><br />${text}${set ? html` <code>${set}</code>` : ""}</span></li>`;
              })}</ul>`
        }
      </div>
    </div>
    <${Settings} settings=${settings} />`;
}

/** @param {NonNullable<Status["store"]>} store */
function storeDetail({ ok, latency_ms, encrypted }) {
  const state =
    ok === false ? "does not respond" : latency_ms != null ? `responded in ${duration(latency_ms / 1000)}` : "";
  return [state, encrypted ? "entries are encrypted" : "entries are not encrypted"].filter(Boolean).join(", ");
}

/** @param {{ name: string, ok: boolean | null, value: string, detail: string }} props */
function Lamp({ name, ok, value, detail }) {
  const kind = ok === null ? "neutral" : ok ? "good" : "bad";
  return html`<div class=${`lamp ${kind}`}>
    <span class="name">${name}</span>
    <strong><i aria-hidden="true">${ok === null ? "" : ok ? "✓" : "!"}</i>${value}</strong>
    <span class="beside">${detail}</span>
  </div>`;
}

/** @param {{ name: string, value?: number, whole?: number }} props */
function Fact({ name, value, whole }) {
  if (value === undefined) return null;
  return html`<div><dt>${name}</dt><dd>${integer(value)}${whole ? html` <span class="beside">of ${counted(whole, "request")}</span>` : ""}</dd></div>`;
}

/** @param {{ settings: NonNullable<Status["settings"]> }} props */
function Settings({ settings }) {
  const [isAll, setAll] = useState(false);
  if (settings.length === 0) return null;
  const own = settings.filter(({ source }) => source !== "default");
  const shown = isAll ? settings : own;
  return html`<h3>Settings</h3>
    ${
      shown.length === 0
        ? html`<p class="nothing">Nothing is set: every variable has its default.</p>`
        : html`<${Scroll} label="Settings"><table class="settings"><caption class="visually-hidden">Settings as they were read</caption>
          <thead><tr><th scope="col">Variable</th><th scope="col">Value</th><th scope="col">From</th></tr></thead>
          <tbody>${shown.map(
            ({ name, value, source, secret }) => html`<tr key=${name}><th scope="row"><code>${name}</code></th>
              <td>${secret ? html`<i>${source === "default" ? "not set" : "set, hidden"}</i>` : value === null || value === "" ? html`<i>not set</i>` : html`<code>${value}</code>`}</td>
              <td>${source === "default" ? "default" : "set"}</td></tr>`,
          )}</tbody></table><//>`
    }
    <button type="button" class="link" aria-expanded=${isAll} onClick=${() => setAll(!isAll)}>${isAll ? "Show only what is set" : `Show all ${settings.length} variables`}</button>`;
}
