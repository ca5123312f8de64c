// The cache's results: the values of X-Cache-Status, in the order of the chart from the axis up.

/** @typedef {{ id: string, name: string, saved: boolean, text: string }} Outcome */

/** @type {Outcome[]} */
export const OUTCOMES = [
  { id: "HIT", name: "Hit", saved: true, text: "Served from the cache." },
  { id: "COALESCED", name: "Shared", saved: true, text: "Shared the upstream request of an equal request in flight." },
  { id: "STALE", name: "Stale", saved: true, text: "Served after its lifetime, because the upstream failed." },
  { id: "UPDATING", name: "Updating", saved: true, text: "Served after its lifetime, while it was revalidated." },
  { id: "PARTIAL", name: "Partial", saved: false, text: "Some of the inputs were stored. The others were requested." },
  { id: "MISS", name: "Miss", saved: false, text: "Not stored yet: sent to the upstream." },
  { id: "EXPIRED", name: "Expired", saved: false, text: "Stored, but its lifetime was over: sent to the upstream." },
  { id: "REFRESH", name: "Refresh", saved: false, text: "The client requested a new response." },
  { id: "BYPASS", name: "Bypass", saved: false, text: "Not cacheable: passed through." },
  { id: "NONE", name: "Other", saved: false, text: "Neither looked up nor sent: errors and pages of the proxy." },
];

/** @param {string | null | undefined} id */
export const outcomeOf = (id) => OUTCOMES.find((outcome) => outcome.id === (id ?? "NONE").toUpperCase());

/** @param {string | null | undefined} id */
export const isSaved = (id) => outcomeOf(id)?.saved === true;
