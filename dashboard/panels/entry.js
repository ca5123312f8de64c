// One entry: its details, and the actions on it.
import { useEffect, useRef, useState } from "preact/hooks";
import { age, compact, counted, duration, instant, integer, size, UNKNOWN } from "../format.js";
import { useLoad } from "../hooks.js";
import { html } from "../html.js";
import { Copyable, Failure, Scroll, Skeleton } from "../parts.js";
import { expiry } from "./entries.js";

/** @import { Api, Entry, EntryDetails, Explanation } from "../api.js" */

const FIRST_PARTS = 12;

/**
 * @param {{ api: Api, entry: Entry, now: number, onClose: () => void, onDeleted: (key: string) => void }} props
 */
export function EntryDialog({ api, entry, now, onClose, onDeleted }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => dialog.current?.showModal(), []);
  const load = useLoad((signal) => api.entry(entry.key, signal), [api, entry.key]);
  const details = load.data;
  // A click on the dialog itself is one outside of its content.
  const onClick = (/** @type {MouseEvent} */ event) => event.target === dialog.current && dialog.current?.close();
  return html`<dialog ref=${dialog} onClose=${onClose} onClick=${onClick} aria-labelledby="entry-title">
    <div class="dialog">
      <header class="panel-head">
        <div><h2 id="entry-title">Entry <code>${entry.key.slice(0, 12)}</code></h2>
          <p class="hint">${[entry.model, entry.endpoint, entry.namespace && `namespace ${entry.namespace}`].filter(Boolean).join(" · ")}</p></div>
        <button type="button" onClick=${() => dialog.current?.close()}>Close</button>
      </header>
      <${Actions} api=${api} entry=${entry} details=${details} onDeleted=${onDeleted} />
      <${Facts} entry=${entry} details=${details} now=${now} />
      ${
        details
          ? html`<${Usage} details=${details} /><${Headers} details=${details} /><${Parts} details=${details} />
            <${Compare} api=${api} entryKey=${entry.key} endpoint=${entry.endpoint} />`
          : load.error
            ? html`<${Failure} error=${load.error} retry=${load.reload} />`
            : html`<${Skeleton} />`
      }
      <h3>Key</h3>
      <${Copyable} text=${entry.key} />
    </div>
  </dialog>`;
}

/** @param {{ api: Api, entry: Entry, details?: EntryDetails, onDeleted: (key: string) => void }} props */
function Actions({ api, entry, details, onDeleted }) {
  const [isAsking, setAsking] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const run = async (/** @type {() => Promise<void>} */ action) => {
    setBusy(true);
    setError(null);
    try {
      await action();
    } catch (failure) {
      setError(/** @type {Error} */ (failure));
    }
    setBusy(false);
  };
  const remove = () =>
    run(async () => {
      await api.deleteEntry(entry.key);
      onDeleted(entry.key);
    });
  const tape = () => run(async () => download(await api.tape(entry.key)));
  const whyNoTape = details && details.tape === false;
  return html`<div class="actions">
    ${
      isAsking
        ? html`<span class="ask" role="alertdialog" aria-label="Delete this entry?">
            Delete it for every client that shares it? <button type="button" class="danger" onClick=${remove} disabled=${isBusy} ref=${focus}>Delete</button>
            <button type="button" onClick=${() => setAsking(false)}>Keep</button></span>`
        : html`<button type="button" class="danger" onClick=${() => setAsking(true)}>Delete…</button>`
    }
    <button type="button" onClick=${tape} disabled=${isBusy || whyNoTape} aria-describedby=${whyNoTape ? "no-tape" : undefined}>Export as tape</button>
    ${whyNoTape && html`<span class="beside" id="no-tape">The request is not kept. Start with <code>reprise --keep-requests</code> to export tapes.</span>`}
    ${error && html`<p class="failure" role="alert">${error.message}</p>`}
  </div>`;
}

/** @param {HTMLElement | null} element */
const focus = (element) => element?.focus();

/** @param {{ name: string, blob: Blob }} file */
function download({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** @param {{ entry: Entry, details?: EntryDetails, now: number }} props */
function Facts({ entry, details, now }) {
  const stored = details?.stored_at ?? entry.stored_at;
  const expires = details ? (details.expires_at ?? null) : entry.expires_at;
  /** @type {[string, unknown][]} */
  const facts = [
    ["Hits", integer(entry.hits)],
    ["Stored", stored ? `${age(stored, now)} ago, ${instant(stored)}` : UNKNOWN],
    ["Last used", entry.last_used_at ? `${age(entry.last_used_at, now)} ago` : UNKNOWN],
    ["Expires", `${expiry({ ...entry, expires_at: expires }, now)}${expires ? `, ${instant(expires)}` : ""}`],
    ["Size of the response", size(details?.body_bytes ?? entry.bytes)],
    ["Provider took", details?.upstream_ms == null ? UNKNOWN : duration(details.upstream_ms / 1000)],
    ["Status", details?.status ?? UNKNOWN],
    [
      "Mode",
      details?.mode === "stream"
        ? "stream of events"
        : details?.mode === "object"
          ? "one object"
          : (details?.mode ?? UNKNOWN),
    ],
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const USAGE = {
  input: "Input",
  cached_input: "of it cached by the provider",
  cache_write: "written to the provider's cache",
  output: "Output",
  reasoning: "of it reasoning",
};

/** @param {{ details: EntryDetails }} props */
function Usage({ details }) {
  const usage = Object.entries(USAGE).filter(([name]) => details.usage?.[name] != null);
  return html`<h3>Tokens</h3>
    ${
      usage.length === 0
        ? html`<p class="nothing">The response does not say how many tokens it took.</p>`
        : html`<dl class="facts">${usage.map(([name, label]) => html`<div key=${name}><dt>${label}</dt><dd>${integer(details.usage?.[name])} tokens</dd></div>`)}</dl>`
    }`;
}

/** @param {{ details: EntryDetails }} props */
function Headers({ details: { headers = {} } }) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  return html`<h3>Response headers</h3>
    <${Scroll} label="Response headers"><table><caption class="visually-hidden">Response headers</caption>
      <thead class="visually-hidden"><tr><th scope="col">Name</th><th scope="col">Value</th></tr></thead>
      <tbody>${pairs.map(([name, value]) => html`<tr key=${name}><th scope="row"><code>${name}</code></th><td><code>${value}</code></td></tr>`)}</tbody></table><//>`;
}

/** @param {{ details: EntryDetails }} props */
function Parts({ details: { parts } }) {
  const [isAll, setAll] = useState(false);
  if (!parts)
    return html`<h3>Parts of the request</h3><p class="nothing">This entry was stored before parts were recorded, or without a secret to record them with.</p>`;
  const longest = Math.max(1, ...parts.map(({ length }) => length));
  const shown = isAll ? parts : parts.slice(0, FIRST_PARTS);
  return html`<h3>Parts of the request</h3>
    <p class="hint">Names and lengths. Their text is not kept.</p>
    <${Scroll} label="Parts of the request"><table class="parts"><caption class="visually-hidden">Parts of the request</caption>
      <thead class="visually-hidden"><tr><th scope="col">Part</th><th scope="col">Length</th></tr></thead>
      <tbody>${shown.map(
        ({ path, length }) => html`<tr key=${path}><th scope="row"><code>${path}</code></th>
          <td class="number"><span class="bar" aria-hidden="true"><i style=${{ width: `${(length / longest) * 100}%` }}></i></span> ${compact(length)} bytes</td></tr>`,
      )}</tbody></table><//>
    ${parts.length > FIRST_PARTS && html`<button type="button" class="link" aria-expanded=${isAll} onClick=${() => setAll(!isAll)}>${isAll ? "Show fewer" : `Show all ${parts.length}`}</button>`}`;
}

/** @param {{ api: Api, entryKey: string, endpoint: string | null }} props */
function Compare({ api, entryKey, endpoint }) {
  const [result, setResult] = useState(/** @type {Explanation | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const compare = async (/** @type {Event & { currentTarget: HTMLFormElement }} */ event) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const text = (/** @type {string} */ name) => String(fields.get(name));
    setError(null);
    setResult(null);
    try {
      const headers = headersOf(text("headers"));
      setResult(
        await api.explain({ path: text("path").trim(), headers, body: parsed(text("body")), against: entryKey }),
      );
    } catch (failure) {
      setError(/** @type {Error} */ (failure));
    }
  };
  return html`<details class="compare"><summary>Compare a request with this entry</summary>
    <p class="hint">The request is not sent to a provider. Entries of one client are compared with requests of that client only, so give its credential.</p>
    <form onSubmit=${compare} autocomplete="off">
      <label>Path <input name="path" defaultValue=${`/proxy/${endpoint || "chat/completions"}`} spellcheck=${false} required /></label>
      <label>Headers, one a line <textarea name="headers" rows="2" placeholder="Authorization: Bearer …" spellcheck=${false}></textarea></label>
      <label>Body, as JSON <textarea name="body" rows="6" spellcheck=${false} required></textarea></label>
      <button type="submit">Compare</button>
    </form>
    ${error && html`<p class="failure" role="alert">${error.message}</p>`}
    ${result && html`<${Comparison} result=${result} />`}
  </details>`;
}

/** @param {string} text */
function headersOf(text) {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(":");
      if (colon < 1) throw new Error("A header has a name, a colon and a value.");
      return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
    }),
  );
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The body is not JSON: ${/** @type {Error} */ (error).message}`);
  }
}

/** @param {{ result: Explanation }} props */
function Comparison({ result }) {
  // An entry without recorded parts has no differences.
  const nearest = result.nearest?.find(({ differences }) => differences !== undefined);
  const message = result.message ?? result.error?.message;
  return html`<div class="comparison" role="status">
    <p>This request would be <strong>${result.would}</strong>${result.reason ? html` (<code>${result.reason}</code>)` : ""}. ${message ?? ""}</p>
    ${!nearest && result.would !== "hit" && result.would !== "error" && html`<p>There is nothing to compare: the entry is another client's, or its parts were not recorded.</p>`}
    ${nearest && html`<p>${integer(nearest.equal)} of ${counted(nearest.parts, "part")} are equal.</p>`}
    ${nearest && nearest.differences.length > 0 && html`<ul>${nearest.differences.map((difference) => html`<li key=${difference.path}><code>${difference.path}</code> ${changeOf(difference)}</li>`)}</ul>`}
    ${result.hints?.map((hint) => html`<p key=${hint.code + hint.path} class="hint"><code>${hint.path}</code>: ${hint.text}</p>`)}
  </div>`;
}

/** @param {{ change: string, stored_length?: number | null, length?: number | null }} difference */
function changeOf({ change, stored_length, length }) {
  if (change === "added") return `is new (${counted(length ?? 0, "byte")})`;
  if (change === "removed") return `is missing (${counted(stored_length ?? 0, "byte")} stored)`;
  return `differs (${counted(length ?? 0, "byte")}, ${integer(stored_length)} stored)`;
}
