// The busiest entries, and a search in them.
import { useEffect, useState } from "preact/hooks";
import { age, counted, dollars, instant, integer, size } from "../format.js";
import { useMoment } from "../hooks.js";
import { html } from "../html.js";
import { Failure, Panel, Scroll } from "../parts.js";
import { EntryDialog } from "./entry.js";

/** @import { Api, Entry, EntryPage, Parameters } from "../api.js" */

const PAGE = 15;
const TYPING_MS = 250;
const DAY = 86_400;

/** @type {{ id: string, label: string, parameters: Parameters }[]} */
const AGES = [
  { id: "", label: "Any age", parameters: {} },
  { id: "hour", label: "Last hour", parameters: { max_age: 3600 } },
  { id: "day", label: "Last day", parameters: { max_age: DAY } },
  { id: "week", label: "Last 7 days", parameters: { max_age: 7 * DAY } },
  { id: "older", label: "Older than 7 days", parameters: { min_age: 7 * DAY } },
  { id: "oldest", label: "Older than 30 days", parameters: { min_age: 30 * DAY } },
];

/** @typedef {{ model: string, endpoint: string, namespace: string, age: string }} Search */
/** @type {Search} */
const EVERYTHING = { model: "", endpoint: "", namespace: "", age: "" };

/** @param {Search} search @returns {Parameters} */
function parametersOf({ model, endpoint, namespace, age }) {
  // The typed text is the beginning of a name, unless it ends in `*`.
  const prefix = (/** @type {string} */ text) => (text === "" || text.endsWith("*") ? text || undefined : `${text}*`);
  return {
    model: prefix(model),
    endpoint: prefix(endpoint),
    namespace: prefix(namespace),
    limit: PAGE,
    ...AGES.find(({ id }) => id === age)?.parameters,
  };
}

/** @param {{ api: Api, now: number, refreshed: object }} props `refreshed`: another object when all is to be loaded again */
export function Entries({ api, now, refreshed }) {
  const [search, setSearch] = useState(EVERYTHING);
  const [typed, setTyped] = useState(EVERYTHING);
  const [open, setOpen] = useState(/** @type {Entry | null} */ (null));
  const [deleted, setDeleted] = useState(/** @type {string | null} */ (null));
  const [isSaid, say] = useMoment(6000);
  useEffect(() => {
    const timer = setTimeout(() => setSearch(typed), TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const pages = usePages(api, search, refreshed);
  const entries = pages.entries.filter(({ key }) => key !== deleted);
  const onDeleted = (/** @type {string} */ key) => {
    setDeleted(key);
    setOpen(null);
    say();
  };
  const isSearch = Object.values(search).some((text) => text !== "");
  return html`<${Panel} id="entries" title="Entries" load=${{ ...pages.load, data: pages.isFirst ? undefined : pages }}
      hint="Stored responses, the busiest first. Open one to see what it is, delete it, or export it as a tape.">
    <${SearchForm} search=${typed} onChange=${setTyped} />
    <p class="visually-hidden" role="status">${pages.isLoading ? "" : counted(pages.total ?? entries.length, "entry", "entries")}</p>
    ${isSaid && html`<p class="done" role="status">The entry is deleted. The next request for it is a miss.</p>`}
    ${
      entries.length === 0 && !pages.isLoading
        ? html`<p class="nothing">${isSearch ? "No entry matches." : "Nothing is stored yet."}
            ${isSearch && html`<button type="button" class="link" onClick=${() => setTyped(EVERYTHING)}>Clear the search</button>`}</p>`
        : html`<${Table} entries=${entries} now=${now} onOpen=${setOpen} />`
    }
    ${pages.moreError && html`<${Failure} error=${pages.moreError} retry=${pages.more} />`}
    ${
      pages.hasMore &&
      html`<div class="more"><button type="button" onClick=${pages.more} disabled=${pages.isLoading}>Show more</button>
        <span class="beside">${integer(entries.length)}${pages.total != null ? ` of ${integer(pages.total)}` : ""}</span></div>`
    }
    ${open && html`<${EntryDialog} api=${api} entry=${open} now=${now} onClose=${() => setOpen(null)} onDeleted=${onDeleted} />`}
  <//>`;
}

/** The pages of a search up to the last that was requested. @param {Api} api @param {Search} search @param {object} refreshed */
function usePages(api, search, refreshed) {
  const [state, setState] = useState(
    /** @type {{ entries: Entry[], cursor: string | null, total?: number | null, isFirst: boolean, isLoading: boolean, error?: Error, moreError?: Error }} */ ({
      entries: [],
      cursor: null,
      isFirst: true,
      isLoading: true,
    }),
  );
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    setState((last) => ({ ...last, isLoading: true }));
    api.entries(parametersOf(search), controller.signal).then(
      (/** @type {EntryPage} */ page) =>
        !controller.signal.aborted && setState({ ...page, isFirst: false, isLoading: false }),
      (/** @type {Error} */ error) =>
        !controller.signal.aborted && setState((last) => ({ ...last, isFirst: false, isLoading: false, error })),
    );
    return () => controller.abort();
  }, [api, search, refreshed, attempt]);
  const more = async () => {
    setState((last) => ({ ...last, isLoading: true, moreError: undefined }));
    try {
      const page = await api.entries({ ...parametersOf(search), cursor: state.cursor ?? undefined });
      setState((last) => ({ ...last, ...page, entries: [...last.entries, ...page.entries], isLoading: false }));
    } catch (error) {
      setState((last) => ({ ...last, isLoading: false, moreError: /** @type {Error} */ (error) }));
    }
  };
  const reload = () => setAttempt((n) => n + 1);
  return {
    ...state,
    load: { error: state.error, isLoading: state.isLoading, reload },
    hasMore: state.cursor !== null,
    more,
  };
}

/** @param {{ search: Search, onChange: (search: Search) => void }} props */
function SearchForm({ search, onChange }) {
  const field = (/** @type {keyof Search} */ name, /** @type {string} */ label, /** @type {string} */ example) =>
    html`<label>${label}
      <input type="search" name=${name} value=${search[name]} placeholder=${example} autocomplete="off" spellcheck=${false}
        onInput=${(/** @type {InputEvent & { currentTarget: HTMLInputElement }} */ event) => onChange({ ...search, [name]: event.currentTarget.value.trim() })} />
    </label>`;
  return html`<form class="search" role="search" aria-label="Search entries" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    ${field("model", "Model", "gpt-…")} ${field("endpoint", "Endpoint", "chat/…")} ${field("namespace", "Namespace", "eval-…")}
    <label>Age
      <select name="age" value=${search.age} onChange=${(/** @type {Event & { currentTarget: HTMLSelectElement }} */ event) => onChange({ ...search, age: event.currentTarget.value })}>
        ${AGES.map(({ id, label }) => html`<option value=${id} key=${id}>${label}</option>`)}
      </select>
    </label>
  </form>`;
}

/** @param {{ entries: Entry[], now: number, onOpen: (entry: Entry) => void }} props */
function Table({ entries, now, onOpen }) {
  return html`<${Scroll} label="Stored responses">
    <table class="entries">
      <caption class="visually-hidden">Stored responses, the busiest first</caption>
      <thead><tr><th scope="col">Entry</th><th scope="col">Model</th><th scope="col">Endpoint</th><th scope="col">Namespace</th>
        <th scope="col" class="number">Hits</th><th scope="col" class="number">Saved</th><th scope="col" class="number">Size</th>
        <th scope="col" class="number">Age</th><th scope="col" class="number">Expires</th></tr></thead>
      <tbody>${entries.map(
        (entry) => html`<tr key=${entry.key}>
          <th scope="row"><button type="button" class="link key" onClick=${() => onOpen(entry)} aria-label=${`Open the entry ${entry.key.slice(0, 12)}`}>${entry.key.slice(0, 12)}</button></th>
          <td>${entry.model || html`<i>none</i>`}</td><td>${entry.endpoint || html`<i>unknown</i>`}</td><td>${entry.namespace || html`<i>none</i>`}</td>
          <td class="number">${integer(entry.hits)}</td><td class="number">${dollars(entry.usd_saved)}</td><td class="number">${size(entry.bytes)}</td>
          <td class="number" title=${instant(entry.stored_at)}>${age(entry.stored_at, now)}</td>
          <td class="number" title=${instant(entry.expires_at)}>${expiry(entry, now)}</td>
        </tr>`,
      )}</tbody>
    </table>
  <//>`;
}

/** @param {Entry} entry @param {number} now */
export function expiry({ expires_at }, now) {
  if (!expires_at) return "never";
  return Date.parse(expires_at) <= now ? "expired" : `in ${age(expires_at, now)}`;
}
