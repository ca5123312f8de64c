// The rows of the measurements, and their tables for the screen and the documentation.

/** The middle value, or the mean of the two in the middle. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
}

/**
 * One row. `rounds`: the measured values. `to`: what they are compared with, { name, rounds } of the same rounds. `target`: the
 * upper limit, { ratio }, { added } or { value }.
 *
 * @param {{ group: string, name: string, size?: string, unit: string, rounds: number[], to?: { name: string, rounds: number[] },
 *   target?: Record<string, number>, note?: string }} measurement
 * @returns {any}
 */
export function row({ group, name, size, unit, rounds, to, target, note }) {
  const both = to
    ? rounds.map((value, round) => [value, to.rounds[round]]).filter(([, other]) => other !== undefined)
    : [];
  /** @type {Record<string, number>} */
  const measured = { value: median(rounds) };
  if (both.length > 0) {
    measured.ratio = median(both.map(([value, other]) => value / other));
    measured.added = median(both.map(([value, other]) => value - other));
  }
  const [measure, limit] = Object.entries(target ?? {})[0] ?? [];
  return { group, name, size, unit, ...measured, to, target, met: measure && measured[measure] <= limit, note, rounds };
}

const DIGITS = { µs: 1, ms: 2, kB: 0, MB: 1, s: 1, "": 0, calls: 0, crossings: 1 };

const number = (value, unit) => {
  const digits = unit === "µs" && Math.abs(value) >= 100 ? 0 : (DIGITS[unit] ?? 1);
  return `${value.toFixed(digits)}${unit && ` ${unit}`}`;
};
const times = (ratio) => `${ratio.toFixed(ratio < 10 ? 2 : 1)}×`;
const signed = (value, unit) => `${value < 0 ? "−" : "+"}${number(Math.abs(value), unit)}`;

function targetText({ target, met, unit }) {
  if (!target) return "";
  const [[measure, limit]] = Object.entries(target);
  const text = measure === "ratio" ? times(limit) : measure === "added" ? signed(limit, unit) : number(limit, unit);
  return `≤ ${text} ${met ? "✓" : "✗"}`;
}

const GROUPS = {
  hits: ["Hits: CPU per request, as a multiple of the floor that the row names", bySize],
  cold: ["Cold: KV hits for requests that the isolate has not seen", bySize],
  miss: ["Misses", list],
  streams: ["Streams of 100 events, 10 ms apart", list],
  coalesced: ["20 equal concurrent requests, with a response after 100 ms", list],
  start: ["Start of a process, to its first response", list],
  size: ["Size of the wasm", list],
  memory: ["Memory of the process", list],
  crossings: ["Calls between JavaScript and wasm for one request", list],
};

export const NAMES = Object.keys(GROUPS);

/** A table with a column for each size. */
function bySize(rows) {
  const sizes = [...new Set(rows.map(({ size }) => size))];
  const names = [...new Set(rows.map(({ name }) => name))];
  const lines = names.map((name) => {
    const own = rows.filter((one) => one.name === name);
    const { to } = own[0];
    const cells = sizes.map((size) => {
      const found = own.find((one) => one.size === size);
      if (!found) return "";
      if (found.note) return found.note;
      return [
        number(found.value, found.unit),
        found.ratio && times(found.ratio),
        found.perByte !== undefined && `${found.perByte.toFixed(2)} ns/B`,
        found.target && `(${targetText(found)})`,
      ]
        .filter(Boolean)
        .join(" ");
    });
    return [to ? `${name} / ${to.name}` : name, ...cells];
  });
  return table([["request → response", ...sizes], ...lines]);
}

/** A table with a line for each name and a column for each floor that some are compared with. */
function list(rows) {
  const others = [...new Set(rows.flatMap(({ to }) => (to ? [to.name] : [])))];
  const names = [...new Set(rows.map(({ name }) => name))];
  const lines = names.map((name) => {
    const own = rows.filter((one) => one.name === name);
    const compared = others.map((other) => {
      const found = own.find(({ to }) => to?.name === other);
      return found ? `${signed(found.added, found.unit)}, ${times(found.ratio)}` : "";
    });
    return [name, number(own[0].value, own[0].unit), ...compared, own.map(targetText).filter(Boolean).join(", ")];
  });
  const all = [["", "median", ...others.map((other) => `against ${other}`), "target"], ...lines];
  const used = all[0].map((_, column) => column === 0 || lines.some((line) => line[column] !== ""));
  return table(all.map((line) => line.filter((_, column) => used[column])));
}

/**
 * Lines of cells as Markdown, aligned as plain text.
 *
 * @param {string[][]} lines The head first.
 */
function table(lines) {
  const [head, ...rest] = lines;
  const width = head.map((_, column) => Math.max(3, ...lines.map((line) => line[column].length)));
  const cell = (text, column) => (column === 0 ? text.padEnd(width[column]) : text.padStart(width[column]));
  const text = (line) => `| ${line.map(cell).join(" | ")} |`;
  const rule = `|${width.map((n, column) => (column === 0 ? "-".repeat(n + 2) : `${"-".repeat(n + 1)}:`)).join("|")}|`;
  return [text(head), rule, ...rest.map(text)].join("\n");
}

/** All rows as Markdown. */
export function markdown(rows) {
  return NAMES.map((group) => [group, rows.filter((one) => one.group === group)])
    .filter(([, own]) => own.length > 0)
    .map(([group, own]) => `${GROUPS[group][0]}:\n\n${GROUPS[group][1](own)}`)
    .join("\n\n");
}
