// The page: the token, the period, and the panels.
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, createApi } from "./api.js";
import { instant } from "./format.js";
import { useClock, useLoad, useTabStorage } from "./hooks.js";
import { html } from "./html.js";
import { Login } from "./login.js";
import { Breakdown } from "./panels/breakdown.js";
import { Entries } from "./panels/entries.js";
import { Health } from "./panels/health.js";
import { OverTime } from "./panels/over-time.js";
import { Saved } from "./panels/saved.js";
import { Why } from "./panels/why.js";
import { Choice, Copyable } from "./parts.js";
import { bounds, period, RANGES, rangeOf } from "./ranges.js";

/** @import { Api, Dimension, Ledger, Status } from "./api.js" */
/** @import { Load } from "./hooks.js" */
/** @import { Range } from "./ranges.js" */

const REFRESH_MS = 60_000;
const TOKEN = "reprise-token";

/** The token of the link that opened this page. It does not stay in the address. */
function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  sessionStorage.setItem(TOKEN, token.trim());
}

takeTokenFromAddress();

export function App() {
  const [token, setToken] = useTabStorage(TOKEN, "");
  const [refused, setRefused] = useState("");
  useEffect(() => {
    const onHashChange = () => {
      takeTokenFromAddress();
      setToken(sessionStorage.getItem(TOKEN) ?? "");
    };
    addEventListener("hashchange", onHashChange);
    return () => removeEventListener("hashchange", onHashChange);
  }, []);
  const api = useMemo(
    () =>
      createApi(token, () => {
        setRefused(token);
        setToken("");
      }),
    [token],
  );
  const enter = (/** @type {string} */ next) => {
    setRefused("");
    setToken(next);
  };
  if (token === "") return html`<${Login} wasRefused=${refused !== ""} onEnter=${enter} />`;
  return html`<${Page} key=${token} api=${api} onLeave=${() => enter("")} />`;
}

/** @param {{ api: Api, onLeave: () => void }} props */
function Page({ api, onLeave }) {
  const [rangeId, setRangeId] = useTabStorage("reprise-range", "7d");
  const [dimension, setDimension] = useState(/** @type {Dimension} */ ("model"));
  const [time, refresh] = useClock(REFRESH_MS);
  const { now } = time;
  const range = rangeOf(rangeId);
  const { start, end } = bounds(range, now);
  const inputs = [api, range, time];
  // Until the next response arrives, the page shows the last one, with its own period and grouping.
  const ledger = useLoad(async (signal) => {
    const data = await api.ledger({ ...period(start, end), by: `${range.unit},outcome` }, signal);
    return { ...data, range, start };
  }, inputs);
  const before = useLoad((signal) => api.ledger({ ...period(2 * start - end, start), by: "" }, signal), inputs);
  const reasons = useLoad((signal) => api.ledger({ ...period(start, end), by: "outcome,reason" }, signal), inputs);
  const differences = useLoad(
    (signal) => ifKnown(api.ledger({ ...period(start, end), by: "difference" }, signal)),
    inputs,
  );
  const groups = useLoad(
    async (signal) => {
      const data = await api.ledger({ ...period(start, end), by: dimension }, signal);
      return { ...data, dimension };
    },
    [...inputs, dimension],
  );
  const status = useLoad((signal) => api.status(signal), [api, time]);
  const choose = useCallback((/** @type {string} */ id) => setDimension(/** @type {Dimension} */ (id)), []);
  const isEmpty = ledger.data?.totals.requests === 0;
  // The ledger's panels fail together. One of them shows the error.
  const counts = { ...ledger, reload: refresh };
  const isMissing = ledger.error instanceof ApiError && ledger.error.status === 404;
  return html`<${Header} rangeId=${range.id} onRange=${setRangeId} now=${now} onRefresh=${refresh} onLeave=${onLeave} isLoading=${ledger.isLoading} />
    <main>
      ${isMissing ? html`<${NoLedger} />` : isEmpty ? html`<${Welcome} range=${ledger.data?.range ?? range} onRange=${setRangeId} />` : html`<${Saved} load=${counts} before=${before.data} />`}
      ${!isEmpty && !ledger.error && html`<${Counted} ledger=${ledger} reasons=${reasons} differences=${differences} groups=${groups} dimension=${dimension} onDimension=${choose} />`}
      ${!isMissing && html`<${Entries} api=${api} now=${now} refreshed=${time} />`}
      <${Health} load=${status} />
    </main>
    <${Footer} status=${status} ledger=${ledger.data} />`;
}

/**
 * @param {{ ledger: Load<Ledger & { range: Range, start: number }>, reasons: Load<Ledger>, differences: Load<Ledger | null>,
 *   groups: Load<Ledger & { dimension: Dimension }>, dimension: Dimension, onDimension: (id: string) => void }} props
 */
function Counted({ ledger, reasons, differences, groups, dimension, onDimension }) {
  return html`<${OverTime} load=${ledger} />
    <${Why} load=${reasons} differences=${differences} />
    <${Breakdown} load=${groups} dimension=${dimension} onChange=${onDimension} />`;
}

/** Null if the ledger does not support the request. @template T @param {Promise<T>} call */
async function ifKnown(call) {
  try {
    return await call;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 400 || error.status === 404)) return null;
    throw error;
  }
}

/**
 * @param {{ rangeId: string, onRange: (id: string) => void, now: number, onRefresh: () => void, onLeave: () => void, isLoading: boolean }} props
 */
function Header({ rangeId, onRange, now, onRefresh, onLeave, isLoading }) {
  return html`<header class="top">
    <h1>Reprise <span>what the cache did</span></h1>
    <nav class="tools" aria-label="Period">
      <${Choice} label="Period" options=${RANGES} value=${rangeId} onChange=${onRange} />
      <button type="button" onClick=${onRefresh} title=${`Loaded at ${instant(now)}`} aria-busy=${isLoading}>Refresh</button>
      <button type="button" class="quiet" onClick=${onLeave} title="Forget the token in this tab">Log out</button>
    </nav>
  </header>`;
}

/** @param {{ range: Range, onRange: (id: string) => void }} props */
function Welcome({ range, onRange }) {
  const base = new URL("proxy", location.href).href;
  return html`<section class="panel welcome" id="saved" aria-labelledby="saved-title">
    <h2 id="saved-title">No requests in ${range.name}</h2>
    <p>Point a client at this base URL and send one request twice. The second one is a hit, and appears here within 10 seconds.</p>
    <${Copyable} text=${base} />
    <p class="hint">For example, with an official client:</p>
    <${Copyable} text=${`export OPENAI_BASE_URL=${base}`} />
    ${range.id !== "1y" && html`<p><button type="button" class="link" onClick=${() => onRange("1y")}>Look at a whole year</button></p>`}
  </section>`;
}

const BINDING = `[[durable_objects.bindings]]
name = "LEDGER"
class_name = "Ledger"`;

const NoLedger = () => html`<section class="panel welcome" id="saved" aria-labelledby="saved-title">
  <h2 id="saved-title">Nothing is counted</h2>
  <p>The ledger is not bound, so no requests are counted. Bind its Durable Object in wrangler.toml, as the file of the repository does:</p>
  <${Copyable} text=${BINDING} />
</section>`;

/** @param {{ status: Load<Status>, ledger?: Ledger }} props */
function Footer({ status, ledger }) {
  return html`<footer>
    <p>Reprise ${status.data?.version ?? ""}. ${ledger?.prices ? `Prices: ${ledger.prices}. ` : ""}Money is an estimate from list prices. No prompt, response or credential is on this page.</p>
  </footer>`;
}
