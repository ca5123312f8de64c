// The ledger's totals are those of the upstream, over several isolates and restarts. For a long run:
// `node tests/worker/support/ledger-totals.mjs --requests 100000`.

import { test } from "node:test";
import { checkTotals } from "./support/ledger-totals.mjs";

test("totals are equal once everything is sent, and never above before", async (t) => {
  await checkTotals({ requests: 600, log: (text) => t.diagnostic(text) });
});
