// Outcomes stacked, and the hit rate as a line.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { compact, integer, percent } from "../format.js";
import { html } from "../html.js";
import { OUTCOMES } from "../outcomes.js";
import { Panel, Scroll } from "../parts.js";
import { bucketName, inBuckets } from "../ranges.js";

/** @import { Ledger } from "../api.js" */
/** @import { Load } from "../hooks.js" */
/** @import { Outcome } from "../outcomes.js" */
/** @import { Range } from "../ranges.js" */

/**
 * @typedef {object} Series
 * @property {string[]} names of the buckets
 * @property {{ outcome: Outcome, counts: number[] }[]} outcomes from the axis up
 * @property {number[]} totals
 * @property {(number | null)[]} rates from 0 to 100
 */

/** @typedef {Ledger & { range: Range, start: number }} Period */

/** @param {{ load: Load<Period> }} props */
export function OverTime({ load }) {
  const series = useMemo(() => load.data && seriesOf(load.data), [load.data]);
  return html`<${Panel} id="over-time" title="Over time" hint="Requests by what the cache did, and the share that it served. Times are UTC." load=${load}>
    ${series && html`<${Content} series=${series} />`}
  <//>`;
}

/** @param {Period} period @returns {Series} */
function seriesOf({ range, start, rows }) {
  const counts = inBuckets(range, start, rows);
  const outcomes = OUTCOMES.flatMap((outcome) => {
    const found = counts.get(outcome.id);
    return found ? [{ outcome, counts: found }] : [];
  });
  const indexes = Array.from({ length: range.buckets }, (_, i) => i);
  const total = (/** @type {number} */ i, /** @type {(outcome: Outcome) => boolean} */ which) =>
    outcomes.reduce((sum, { outcome, counts }) => sum + (which(outcome) ? counts[i] : 0), 0);
  const totals = indexes.map((i) => total(i, () => true));
  return {
    names: indexes.map((i) => bucketName(range, start + i * range.bucketMs)),
    outcomes,
    totals,
    rates: indexes.map((i) => (totals[i] > 0 ? (total(i, ({ saved }) => saved) / totals[i]) * 100 : null)),
  };
}

/** @param {{ series: Series }} props */
function Content({ series }) {
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const [isTable, setTable] = useState(false);
  const shown = at ?? null;
  return html`<div class="legend">
      ${series.outcomes.map(
        ({ outcome, counts }) => html`<span key=${outcome.id} title=${outcome.text}>
          <i class=${`swatch outcome-${outcome.id}`}></i>${outcome.name}
          <b>${compact(shown === null ? counts.reduce((a, b) => a + b, 0) : counts[shown])}</b>
        </span>`,
      )}
      <span><i class="swatch line"></i>Hit rate <b>${shown === null ? "" : series.rates[shown] === null ? "–" : `${Math.round(series.rates[shown] ?? 0)} %`}</b></span>
      <span class="bucket">${shown === null ? "" : series.names[shown]}</span>
    </div>
    <${Chart} series=${series} onMove=${setAt} />
    <button type="button" class="link" aria-expanded=${isTable} onClick=${() => setTable(!isTable)}>
      ${isTable ? "Hide the table" : "Show as a table"}
    </button>
    ${isTable && html`<${Table} series=${series} />`}`;
}

/** @param {{ series: Series }} props */
function Table({ series }) {
  const rows = series.names.map((name, i) => ({ name, i })).filter(({ i }) => series.totals[i] > 0);
  return html`<${Scroll} label="Requests over time">
    <table>
      <caption class="visually-hidden">Requests over time, by what the cache did</caption>
      <thead><tr><th scope="col">Time (UTC)</th><th scope="col" class="number">Requests</th>
        ${series.outcomes.map(({ outcome }) => html`<th scope="col" class="number" key=${outcome.id}>${outcome.name}</th>`)}
        <th scope="col" class="number">Hit rate</th></tr></thead>
      <tbody>${rows.map(
        ({
          name,
          i,
        }) => html`<tr key=${i}><th scope="row">${name}</th><td class="number">${integer(series.totals[i])}</td>
          ${series.outcomes.map(({ outcome, counts }) => html`<td class="number" key=${outcome.id}>${integer(counts[i])}</td>`)}
          <td class="number">${percent(series.rates[i] ?? 0, 100)}</td></tr>`,
      )}</tbody>
    </table>
  <//>`;
}

const HEIGHT = 260;
const NARROW = 480;

/** @param {{ series: Series, onMove: (index: number | null) => void }} props */
function Chart({ series, onMove }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const draw = () => new uPlot(options(series, element.clientWidth, onMove), dataOf(series), element);
    let plot = draw();
    const redraw = () => {
      plot.destroy();
      plot = draw();
    };
    let width = element.clientWidth;
    const observer = new ResizeObserver(() => {
      if (element.clientWidth === width) return;
      width = element.clientWidth;
      redraw();
    });
    observer.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", redraw);
    return () => {
      observer.disconnect();
      scheme.removeEventListener("change", redraw);
      plot.destroy();
    };
  }, [series]);
  const requests = series.totals.reduce((a, b) => a + b, 0);
  const label = `Chart: ${integer(requests)} requests in ${series.names.length} steps from ${series.names[0]} to ${series.names.at(-1)}. The table holds the same numbers.`;
  return html`<div class="chart" role="img" aria-label=${label} ref=${box}></div>`;
}

/** The counts of each outcome with all below it. The highest is drawn first. @param {Series} series @returns {uPlot.AlignedData} */
function dataOf({ names, outcomes, rates }) {
  const sums = new Array(names.length).fill(0);
  const stacked = outcomes.map(({ counts }) => counts.map((count, i) => (sums[i] += count)));
  return [names.map((_, i) => i), ...stacked.reverse(), rates];
}

/**
 * @param {Series} series
 * @param {number} width in pixels
 * @param {(index: number | null) => void} onMove
 * @returns {uPlot.Options}
 */
function options({ names, outcomes, totals }, width, onMove) {
  const style = getComputedStyle(document.documentElement);
  const color = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const font = `12px ${color("--font")}`;
  const isNarrow = width < NARROW;
  const bars = uPlot.paths.bars?.({ size: [0.72, 46], radius: 0 });
  const axis = { font, stroke: color("--muted"), ticks: { show: false } };
  const step = Math.max(1, Math.ceil(names.length / Math.max(2, Math.floor(width / 110))));
  return {
    width,
    height: isNarrow ? 200 : HEIGHT,
    padding: [12, isNarrow ? 4 : 8, 0, 0],
    legend: { show: false },
    cursor: { points: { show: false }, drag: { x: false, y: false }, y: false },
    scales: {
      x: { time: false, range: [-0.6, names.length - 0.4] },
      y: { range: [0, Math.max(1, ...totals) * 1.05] },
      rate: { range: [0, 105] },
    },
    axes: [
      {
        ...axis,
        size: 30,
        grid: { show: false },
        splits: () => names.map((_, i) => i).filter((i) => i % step === 0),
        values: (_, splits) => splits.map((i) => names[i]?.replace(/^week from |^.*, /, "") ?? ""),
      },
      {
        ...axis,
        size: 46,
        grid: { stroke: color("--grid"), width: 1 },
        values: (_, splits) => splits.map((n) => (Number.isInteger(n) ? compact(n) : "")),
      },
      {
        ...axis,
        scale: "rate",
        side: 1,
        size: 46,
        grid: { show: false },
        splits: () => [0, 50, 100],
        values: (_, splits) => splits.map((n) => `${n} %`),
      },
    ],
    series: [
      {},
      ...outcomes
        .map(({ outcome }) => ({
          label: outcome.name,
          paths: bars,
          fill: color(`--outcome-${outcome.id}`),
          width: 0,
          points: { show: false },
        }))
        .reverse(),
      {
        label: "Hit rate",
        scale: "rate",
        stroke: color("--ink"),
        width: 2,
        spanGaps: true,
        points: { show: names.length <= 31, size: 5, fill: color("--card"), stroke: color("--ink") },
      },
    ],
    hooks: { setCursor: [(plot) => onMove(plot.cursor.idx ?? null)] },
  };
}
