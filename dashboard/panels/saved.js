// Savings, beside spending.
import { compact, counted, dollars, duration, instant, integer, percent } from "../format.js";
import { html } from "../html.js";
import { Bar, Explained, Panel } from "../parts.js";

/** @import { Ledger, Tokens } from "../api.js" */
/** @import { Load } from "../hooks.js" */
/** @import { Range } from "../ranges.js" */

/** @param {Tokens | undefined} tokens */
const sum = (tokens) => (tokens?.input ?? 0) + (tokens?.output ?? 0);

/** @param {{ load: Load<Ledger & { range: Range }>, before: Ledger | undefined }} props */
export function Saved({ load, before }) {
  const range = load.data?.range;
  return html`<${Panel} id="saved" title=${range ? `Saved in ${range.name}` : "Saved"} load=${load}>
    ${load.data && html`<${Content} range=${range} ledger=${load.data} before=${before} />`}
  <//>`;
}

/** @param {{ range: Range, ledger: Ledger, before: Ledger | undefined }} props */
function Content({ range, ledger, before }) {
  const { totals, prices } = ledger;
  const { usd_saved: saved, usd_spent: spent, tokens_saved, tokens_spent } = totals;
  const served = totals.hits + totals.coalesced;
  const whole = (saved ?? 0) + (spent ?? 0);
  const tokens = sum(tokens_saved);
  const priced = saved != null && (whole > 0 || totals.unpriced_requests === 0);
  return html`<div class="saved">
    <div class="headline">
      <p class="money">
        <${Explained} text=${`What these responses would have cost at the provider's list prices${prices ? ` (${prices})` : ""}. Tokens that the provider had in its own cache count at its lower price.`}>
          ${priced ? dollars(saved) : `${compact(tokens)} tokens`}
        <//>
        <span>saved</span>
      </p>
      ${
        priced
          ? html`<${Bar} share=${whole ? (saved ?? 0) / whole : 0} kind="split" />
            <p class="beside">
              <strong>${percent(saved ?? 0, whole)}</strong> of the ${dollars(whole)} that all requests would have cost.
              You spent <strong>${dollars(spent)}</strong>.
            </p>`
          : html`<p class="beside">No price is known for these models, so the savings are counted in tokens.</p>`
      }
      ${before && html`<${Change} range=${range} now=${totals.usd_saved} then=${before.totals.usd_saved} />`}
    </div>
    <dl class="figures">
      <${Figure} name="Calls saved" value=${compact(served)}
        text=${`Requests that did not reach the provider: ${integer(totals.hits)} from the cache, ${integer(totals.coalesced)} shared with an equal request in flight.`}
        beside=${`${percent(served, totals.requests)} of ${counted(totals.requests, "request")}`} share=${served / totals.requests} />
      <${Figure} name="Tokens saved" value=${compact(tokens)}
        text=${`${integer(tokens_saved?.input)} input and ${integer(tokens_saved?.output)} output tokens, as the provider counted them when the response was stored.`}
        beside=${`beside ${compact(sum(tokens_spent))} spent`} share=${tokens / (tokens + sum(tokens_spent))} />
      <${Figure} name="Waiting saved" value=${duration(totals.seconds_saved)}
        text="The time that the provider took for these responses when they were stored, added up over all clients."
        beside=${served > 0 && totals.seconds_saved != null ? `${duration(totals.seconds_saved / served)} for each call` : "for each call"} />
    </dl>
  </div>
  ${totals.unpriced_requests > 0 && html`<${Unpriced} count=${totals.unpriced_requests} />`}
  ${ledger.complete_until && html`<p class="note">Counted until ${instant(ledger.complete_until)}. Requests of the last seconds may be missing.</p>`}`;
}

/** @param {{ name: string, value: string, text: string, beside: string, share?: number }} props */
function Figure({ name, value, text, beside, share }) {
  return html`<div>
    <dt>${name}</dt>
    <dd>
      <${Explained} class="figure" text=${text}>${value}<//>
      <span class="beside">${beside}</span>
      ${share !== undefined && html`<${Bar} share=${share} />`}
    </dd>
  </div>`;
}

/** @param {{ range: Range, now: number | null, then: number | null }} props */
function Change({ range, now, then }) {
  if (now == null || then == null || (now === 0 && then === 0)) return null;
  const difference = now - then;
  const period = range.name.replace("the last ", "the ");
  if (Math.abs(difference) < 0.01) return html`<p class="change">As much as in ${period} before.</p>`;
  const more = difference > 0;
  return html`<p class="change"><span class=${more ? "up" : "down"} aria-hidden="true">${more ? "▲" : "▼"}</span>
    ${dollars(Math.abs(difference))} ${more ? "more" : "less"} than in ${period} before.</p>`;
}

/** @param {{ count: number }} props */
function Unpriced({ count }) {
  return html`<p class="note">${counted(count, "request has", "requests have")} no known cost, and count as $0: their model has no known price, or the
    response did not say how many tokens it took. ${" "}<a href="#breakdown">Which models</a></p>`;
}
