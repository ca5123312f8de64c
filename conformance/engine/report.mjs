// Results as text for people and as JSON for the README's tables.

import { TOPICS } from './cases.mjs';

const OUTCOMES = ['pass', 'fail', 'na', 'idle'];

/** { kind: { pass, fail, na, idle } } of the results. */
export function totals(results) {
  const of = (some) => Object.fromEntries(OUTCOMES.map((outcome) => [outcome, some.filter((result) => result.outcome === outcome).length]));
  return Object.fromEntries(['must', 'should', 'note'].map((kind) => [kind, of(results.filter((result) => result.kind === kind))]));
}

/** A table: topics down, what came out across. */
export function table(results) {
  const cell = (some) => {
    const { pass, fail, na, idle } = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, some.filter((r) => r.outcome === outcome).length]));
    if (some.length === 0) return '';
    return [`${pass}/${pass + fail}`, na ? `${na} n/a` : '', idle ? `${idle} idle` : ''].filter(Boolean).join(', ');
  };
  const rows = [...TOPICS, undefined].map((topic) => {
    const of = (kind) => cell(results.filter((r) => r.kind === kind && (topic === undefined || r.topic === topic)));
    return [topic ?? 'all', of('must'), of('should'), of('note')];
  }).filter((row) => row.slice(1).some(Boolean));
  const all = [['topic', 'must', 'should', 'note'], ...rows];
  const widths = all[0].map((_, i) => Math.max(...all.map((row) => row[i].length)));
  return all.map((row) => row.map((text, i) => text.padEnd(widths[i])).join('  ').trimEnd()).join('\n');
}

export function failures(results) {
  return results.filter((r) => r.outcome === 'fail' || (r.kind === 'note' && r.observed))
    .map((r) => `${r.outcome === 'fail' ? (r.wrong ? 'WRONG' : 'FAIL ') : 'note '} ${r.kind.padEnd(6)} ${r.id}: ${r.name}\n      ${[r.why, r.observed].filter(Boolean).join('; ')}`).join('\n');
}
