// Results as text, and as totals for the README's tables.

import { TOPICS } from "./cases.mjs";

const OUTCOMES = ["pass", "fail", "na", "inconclusive"];
const KINDS = ["must", "should", "note"];

const counted = (results) =>
  Object.fromEntries(
    OUTCOMES.map((outcome) => [outcome, results.filter((result) => result.outcome === outcome).length]),
  );

/** { kind: { pass, fail, na, inconclusive } } of the results. */
export const totals = (results) =>
  Object.fromEntries(KINDS.map((kind) => [kind, counted(results.filter((result) => result.kind === kind))]));

/** A table: a row for each topic, a column for each kind. */
export function table(results) {
  const cell = (some) => {
    if (some.length === 0) return "";
    const { pass, fail, na, inconclusive } = counted(some);
    return [`${pass}/${pass + fail}`, na ? `${na} n/a` : "", inconclusive ? `${inconclusive} inconclusive` : ""]
      .filter(Boolean)
      .join(", ");
  };
  const rows = [...TOPICS, undefined].map((topic) => {
    const some = results.filter((result) => topic === undefined || result.topic === topic);
    return [topic ?? "all", ...KINDS.map((kind) => cell(some.filter((result) => result.kind === kind)))];
  });
  const all = [["topic", ...KINDS], ...rows.filter((row) => row.slice(1).some(Boolean))];
  const widths = all[0].map((_, i) => Math.max(...all.map((row) => row[i].length)));
  return all
    .map((row) =>
      row
        .map((text, i) => text.padEnd(widths[i]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** The failures, and what the cases of kind `note` observed. */
export function failures(results) {
  const label = ({ outcome, wrong }) => (outcome !== "fail" ? "note " : wrong ? "WRONG" : "FAIL ");
  return results
    .filter((result) => result.outcome === "fail" || (result.kind === "note" && result.observed))
    .map((result) => {
      const why = [result.why, result.observed].filter(Boolean).join("; ");
      return `${label(result)} ${result.kind.padEnd(6)} ${result.id}: ${result.name}\n      ${why}`;
    })
    .join("\n");
}
