// The dashboard in Chromium, with a scripted admin API: every panel, every state, keyboard, contrast, and what the page must not do.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { assertNoFindings, openPage, overflow, PICTURES, picture, startBrowser } from "./support/browser.mjs";
import { entriesOf, traffic } from "./support/month.mjs";
import { STATUS, startScriptedAdmin } from "./support/scripted-admin.mjs";

const NOW = Date.parse("2026-11-24T21:40:00Z");
const TRAFFIC = traffic({ until: NOW, days: 60 });
const ENTRIES = entriesOf({ until: NOW, count: 240 });
const MONTH = { traffic: TRAFFIC, entries: ENTRIES, now: NOW, status: STATUS };
const EMPTY = {
  traffic: [],
  entries: [],
  now: NOW,
  status: { ...STATUS, counters: { scope: "ledger", not_stored: {} } },
};

let browser;
before(async () => {
  browser = await startBrowser();
});
after(() => browser?.close());

/**
 * Opens the dashboard with a script, runs the test, and checks that the page did nothing it must not do.
 *
 * @param {Record<string, any>} options
 * @param {(opened: any) => Promise<void>} run
 */
async function withDashboard({ script = MONTH, fragment = "#token=adm", ...options }, run) {
  const admin = await startScriptedAdmin(script);
  const opened = await openPage(browser, `${admin.url}/dashboard${fragment}`, { now: NOW, ...options });
  try {
    await run({ ...opened, admin });
    assert.deepEqual(opened.problems, []);
  } finally {
    await opened.close();
    await admin.close();
  }
}

const panel = (page, name) => page.getByRole("region", { name, exact: true });
const chosen = (page, name) => page.getByRole("radio", { name, exact: true }).check();

/** Waits until every panel shows its data. */
async function loaded(page) {
  for (const selector of [
    "#saved .figures",
    "#over-time canvas",
    "#why .reasons",
    "#breakdown table",
    "#entries table",
    "#health .lamps",
  ]) {
    await page.locator(selector).first().waitFor();
  }
  await page.locator('.panel[aria-busy="true"]').waitFor({ state: "detached" });
}

async function month(page) {
  await chosen(page, "30 days");
  await page.getByRole("heading", { name: "Saved in the last 30 days" }).waitFor();
  await loaded(page);
}

describe("the token", () => {
  test("of the link is used, kept for the tab, and not in the address", () =>
    withDashboard({}, async ({ page, context, admin }) => {
      await loaded(page);
      assert.equal(page.url(), `${admin.url}/dashboard`);
      await page.reload();
      await loaded(page);
      assert.deepEqual(await context.cookies(), []);
      assert.equal(await page.evaluate(() => localStorage.length), 0);
      assert.ok(admin.calls.every(({ query }) => !query.has("token")));
    }));

  test("is required, and a wrong one is refused", () =>
    withDashboard({ fragment: "", expected: /401/ }, async ({ page, admin }) => {
      const input = page.getByLabel("Admin token");
      assert.equal(await input.evaluate((element) => element === document.activeElement), true);
      assert.equal(admin.calls.length, 0);
      await assertNoFindings(page);
      await picture(page, "login");
      await input.fill("wrong");
      await page.keyboard.press("Enter");
      await page.getByRole("alert").getByText("This token is not valid").waitFor();
      await assertNoFindings(page);
      await input.fill(" adm ");
      await page.getByRole("button", { name: "Show the dashboard" }).click();
      await loaded(page);
    }));

  test("that expires leads back to the login form, and the panels are gone", () =>
    withDashboard({ expected: /401/ }, async ({ page, admin }) => {
      await loaded(page);
      admin.script.token = "new";
      await page.getByRole("button", { name: "Refresh" }).click();
      await page.getByRole("alert").getByText("or no longer").waitFor();
      assert.equal(await page.locator(".panel").count(), 0);
      assert.equal(await page.evaluate(() => sessionStorage.getItem("reprise-token")), "");
      // The link that the new start has printed, in the same tab.
      await page.goto(`${admin.url}/dashboard#token=new`);
      await loaded(page);
    }));

  test("is forgotten on request", () =>
    withDashboard({}, async ({ page }) => {
      await loaded(page);
      await page.getByRole("button", { name: "Log out" }).click();
      await page.getByLabel("Admin token").waitFor();
      await page.reload();
      await page.getByLabel("Admin token").waitFor();
    }));
});

describe("the panels", () => {
  test("say what was saved, beside what was spent, for each period", () =>
    withDashboard({}, async ({ page, admin }) => {
      for (const [label, name] of Object.entries({
        "24 hours": "24 hours",
        "7 days": "7 days",
        "30 days": "30 days",
        "1 year": "52 weeks",
      })) {
        await chosen(page, label);
        await page.getByRole("heading", { name: `Saved in the last ${name}` }).waitFor();
      }
      await month(page);
      const inside = TRAFFIC.filter(({ time }) => time >= Date.parse("2026-10-26T00:00:00Z"));
      const sum = (of) => inside.reduce((total, row) => total + of(row), 0);
      const dollars = (usd) => `$${usd.toFixed(2)}`;
      const text = await panel(page, "Saved in the last 30 days").textContent();
      const saved = sum((row) => row.usd_saved);
      const spent = sum((row) => row.usd_spent);
      for (const expected of [
        dollars(saved),
        dollars(spent),
        dollars(saved + spent),
        `of ${sum((row) => row.requests).toLocaleString("en-US")} requests`,
      ]) {
        assert.ok(text.includes(expected), `${expected} is not in ${text}`);
      }
      assert.match(text, /more than in the 30 days before/);
      const last = admin.calls
        .filter(({ path, query }) => path.endsWith("/ledger") && query.get("by") === "day,outcome")
        .at(-1);
      assert.deepEqual(
        [last.query.get("from"), last.query.get("to")],
        ["2026-10-26T00:00:00Z", "2026-11-25T00:00:00Z"],
      );
    }));

  test("explain a number when it has the focus, inside the window", () =>
    withDashboard({ width: 360 }, async ({ page }) => {
      await loaded(page);
      for (const value of await page.locator(".explained > button").all()) {
        await value.focus();
        const tip = value.locator("xpath=following-sibling::*[@role='tooltip']");
        await tip.waitFor({ state: "visible" });
        assert.equal(await value.getAttribute("aria-describedby"), await tip.getAttribute("id"));
        const box = await tip.boundingBox();
        assert.ok(box.x >= 0 && box.x + box.width <= 360, JSON.stringify(box));
        await page.keyboard.press("Escape");
        await tip.waitFor({ state: "hidden" });
      }
      assert.equal(await overflow(page), 0);
    }));

  test("show the outcomes over time, also as a table with the same numbers", () =>
    withDashboard({}, async ({ page }) => {
      await month(page);
      const chart = page.getByRole("img", { name: /^Chart: / });
      // The canvas is not blank.
      const colors = await chart.locator("canvas").evaluate((/** @type {HTMLCanvasElement} */ canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
      });
      assert.ok(colors > 20, `${colors} colors`);
      await page.getByRole("button", { name: "Show as a table" }).click();
      const cells = await page
        .getByRole("region", { name: "Requests over time" })
        .locator("tbody tr td:nth-of-type(1)")
        .allInnerTexts();
      const total = cells.reduce((sum, text) => sum + Number(text.replaceAll(",", "")), 0);
      assert.equal(cells.length, 30);
      assert.ok((await chart.getAttribute("aria-label")).includes(total.toLocaleString("en-US")));
      await chart.hover({ position: { x: 300, y: 100 } });
      await page
        .locator(".legend .bucket")
        .getByText(/^\d+ (Oct|Nov)$/)
        .waitFor();
      await assertNoFindings(page);
    }));

  test("say why requests were no hits, what each reason cost, and what to set", () =>
    withDashboard({}, async ({ page, context, admin }) => {
      await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: admin.url });
      await month(page);
      const why = panel(page, "Why not a hit");
      const costs = await why.locator(".reasons").first().locator(".cost strong").allInnerTexts();
      const numbers = costs.map((text) => Number(text.replace("$", "")));
      assert.deepEqual(
        numbers,
        numbers.toSorted((a, b) => b - a),
      );
      assert.ok(numbers[0] > 0);
      const near = why.getByRole("listitem").filter({ hasText: "headers.x-session-id" });
      await near.getByRole("button", { name: /^Copy/ }).click();
      await near.getByText("Copied").first().waitFor();
      assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "KEY_IGNORE=header:x-session-id");
      for (const text of [
        "KEY_IGNORE=@identity",
        "KEY_IGNORE=temperature",
        "STALE_WHILE_REVALIDATE=86400",
        "CACHE_MATCH=chat",
      ]) {
        if ((await why.getByText(text).count()) === 0)
          await why
            .getByRole("button", { name: /^Show all/ })
            .last()
            .click();
        await why.getByText(text).first().waitFor();
      }
      await why.getByText("Worth setting first.").waitFor();
    }));

  test("group by model, endpoint, namespace and provider, sorted by any column", () =>
    withDashboard({}, async ({ page }) => {
      await month(page);
      const rows = page.locator("#breakdown tbody tr");
      const names = () => rows.locator("th").allInnerTexts();
      assert.equal((await names())[0], "text-embedding-3-large");
      await page.locator("#breakdown").getByRole("button", { name: "Spent" }).click();
      assert.equal((await names())[0], "claude-sonnet-5");
      assert.equal(await page.getByRole("columnheader", { name: "Spent" }).getAttribute("aria-sort"), "descending");
      await page
        .locator("#breakdown")
        .getByText(/^PRICES=\{"\*\/in-house-7b"/)
        .waitFor();
      for (const [label, expected] of [
        ["Endpoint", "chat/completions"],
        ["Namespace", "no namespace"],
        ["Provider", "anthropic"],
      ]) {
        await chosen(page, label);
        await page.getByRole("heading", { name: `By ${label.toLowerCase()}` }).waitFor();
        assert.ok((await names()).includes(expected), expected);
      }
    }));

  test("list the entries, and search them by model, endpoint, namespace and age", () =>
    withDashboard({}, async ({ page }) => {
      await loaded(page);
      const entries = panel(page, "Entries");
      const rows = entries.locator("tbody tr");
      assert.equal(await rows.count(), 15);
      await entries.getByRole("button", { name: "Show more" }).click();
      await entries.getByText("30 of 240").waitFor();
      await entries.getByLabel("Model").fill("gemini");
      await entries.getByLabel("Endpoint").fill("generateContent");
      await entries.getByLabel("Age").selectOption("Older than 30 days");
      const matching = ENTRIES.filter(
        ({ model, stored_at }) => model === "gemini-3-pro" && NOW - Date.parse(stored_at) >= 30 * 86_400_000,
      );
      await entries
        .getByRole("status")
        .getByText(new RegExp(`^${matching.length} entr`))
        .waitFor();
      assert.deepEqual([...new Set(await rows.locator("td:nth-of-type(1)").allInnerTexts())], ["gemini-3-pro"]);
      await entries.getByLabel("Namespace").fill("nothing");
      await entries.getByText("No entry matches.").waitFor();
      await entries.getByRole("button", { name: "Clear the search" }).click();
      await entries.getByText("15 of 240").waitFor();
    }));

  test("open an entry with the keyboard, and compare a request with it", () =>
    withDashboard({ script: { ...MONTH, explain } }, async ({ page, admin }) => {
      await loaded(page);
      const link = page.locator("#entries tbody button").nth(2);
      await link.focus();
      await page.keyboard.press("Enter");
      const dialog = page.getByRole("dialog");
      for (const text of ["messages[0].content", "x-request-id", "1,024 tokens", "stream of events"])
        await dialog.getByText(text).first().waitFor();
      await assertNoFindings(page);
      await dialog.getByText("Compare a request with this entry").click();
      await dialog.getByLabel("Body, as JSON").fill("{");
      await dialog.getByRole("button", { name: "Compare" }).click();
      await dialog.getByText("The body is not JSON").waitFor();
      await dialog.getByLabel("Headers, one a line").fill("authorization: Bearer sk-1\n\nx-a: b:c\n");
      await dialog.getByLabel("Body, as JSON").fill('{"model":"gpt-5.6"}');
      await dialog.getByRole("button", { name: "Compare" }).click();
      await dialog.getByText("12 of 13 parts are equal").waitFor();
      const call = JSON.parse(admin.calls.find(({ method }) => method === "POST").body);
      assert.deepEqual(call, {
        path: `/proxy/${ENTRIES[2].endpoint}`,
        headers: { authorization: "Bearer sk-1", "x-a": "b:c" },
        body: { model: "gpt-5.6" },
        against: ENTRIES[2].key,
      });
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
      assert.equal(await link.evaluate((element) => element === document.activeElement), true);
    }));

  test("delete an entry after a confirmation", () =>
    withDashboard({}, async ({ page, admin }) => {
      await loaded(page);
      const { key } = ENTRIES[0];
      await page.locator("#entries tbody button").first().click();
      const dialog = page.getByRole("dialog");
      await dialog.getByRole("button", { name: "Delete…" }).click();
      await dialog.getByRole("button", { name: "Keep" }).click();
      assert.ok(!admin.calls.some(({ method }) => method === "DELETE"));
      await dialog.getByRole("button", { name: "Delete…" }).click();
      await page.keyboard.press("Enter"); // the button that confirms has the focus
      await page.getByText("The entry is deleted.").waitFor();
      assert.deepEqual(
        admin.calls.filter(({ method }) => method === "DELETE").map(({ path }) => path),
        [`/admin/cache/${key}`],
      );
      assert.equal(await page.getByText(key.slice(0, 12)).count(), 0);
      await page.getByRole("button", { name: "Refresh" }).click();
      await page.locator('#entries[aria-busy="true"]').waitFor({ state: "detached" });
      assert.equal(await page.getByText(key.slice(0, 12)).count(), 0);
    }));

  test("export an entry as a tape, where the request is kept", () =>
    withDashboard({ script: { ...MONTH, keepsRequests: true } }, async ({ page }) => {
      await loaded(page);
      await page.locator("#entries tbody button").first().click();
      const download = page.waitForEvent("download");
      await page.getByRole("button", { name: "Export as tape" }).click();
      const file = await download;
      assert.equal(file.suggestedFilename(), `${ENTRIES[0].model}-${ENTRIES[0].key.slice(0, 8)}.tape`);
      assert.equal(readFileSync(await file.path(), "utf8"), `reprise-tape 1\nkey ${ENTRIES[0].key}\n`);
    }));

  test("say why there is no tape", () =>
    withDashboard({}, async ({ page }) => {
      await loaded(page);
      await page.locator("#entries tbody button").first().click();
      await page.getByText("reprise --keep-requests").waitFor();
      assert.equal(await page.getByRole("button", { name: "Export as tape" }).isDisabled(), true);
    }));

  test("show the health, and no secret", () =>
    withDashboard({}, async ({ page }) => {
      await loaded(page);
      const health = panel(page, "Health");
      for (const text of ["Workers KV", "responded in 14 ms", "612 of 44,090 requests", "set, hidden", "truncated"]) {
        await health.getByText(text).first().waitFor();
      }
      await health.getByRole("button", { name: /^Show all 10 variables/ }).click();
      await health.getByText("MAX_RETRIES").waitFor();
    }));
});

/** The response to `POST /admin/explain`. */
const explain = ({ against }) => ({
  would: "miss",
  reason: "uri-miss",
  nearest: [
    {
      key: against,
      parts: 13,
      equal: 12,
      reason: "model_changed",
      differences: [{ path: "model", change: "value", stored_length: 12, length: 7 }],
    },
  ],
  hints: [],
});

describe("the states", () => {
  test("an empty ledger says what to do", () =>
    withDashboard({ script: EMPTY }, async ({ page, admin }) => {
      await page.getByRole("heading", { name: "No requests in the last 7 days" }).waitFor();
      await page.getByText(`${admin.url}/proxy`, { exact: true }).waitFor();
      await page.getByText("Nothing is stored yet.").waitFor();
      await page.locator("#health .lamps").waitFor();
      await assertNoFindings(page);
      await picture(page, "empty");
    }));

  test("a ledger that is not bound says how to bind it", () =>
    withDashboard(
      { script: { ...MONTH, fail: { ledger: [404, "ledger_missing", "no ledger"] } }, expected: /404/ },
      async ({ page }) => {
        await page.getByRole("heading", { name: "Nothing is counted" }).waitFor();
        await page.getByText('name = "LEDGER"').waitFor();
        await assertNoFindings(page);
      },
    ));

  test("a ledger that fails does not hide the rest, and can be loaded again", () =>
    withDashboard(
      {
        script: { ...MONTH, fail: { ledger: [503, "ledger_failed", "The ledger did not respond."] } },
        expected: /503/,
      },
      async ({ page, admin }) => {
        await panel(page, "Saved").getByText("The ledger did not respond.").waitFor();
        await page.locator("#entries table").waitFor();
        await page.locator("#health .lamps").waitFor();
        await assertNoFindings(page);
        await picture(page, "failing");
        admin.script.fail = {};
        await panel(page, "Saved").getByRole("button", { name: "Try again" }).click();
        await page.locator("#saved .figures").waitFor();
      },
    ));

  test("what a version does not have is left out", () =>
    withDashboard(
      { script: { ...MONTH, fail: { status: [404, "not_found", "There is no such endpoint."] } }, expected: /404/ },
      async ({ page }) => {
        await page.locator("#why .reasons").first().waitFor();
        await panel(page, "Health").getByText("There is no such endpoint.").waitFor();
      },
    ));

  test("while the data comes, each panel says so", () => {
    let release;
    const gate = new Promise((resolve) => (release = resolve));
    return withDashboard({ script: { ...MONTH, delay: () => gate } }, async ({ page }) => {
      await panel(page, "Saved").getByText("Loading").waitFor();
      assert.equal(await panel(page, "Saved").getAttribute("aria-busy"), "true");
      await assertNoFindings(page);
      await picture(page, "loading");
      release();
      await loaded(page);
    });
  });

  test("names of any length and script stay what they are", () => {
    const name = `<img src=x onerror=alert(1)>${"ä".repeat(300)}`;
    const huge = TRAFFIC.map((row) => ({
      ...row,
      model: name,
      namespace: name,
      requests: row.requests * 1e6,
      usd_saved: row.usd_saved * 1e6,
    }));
    const entries = ENTRIES.map((entry) => ({ ...entry, model: name, namespace: name, endpoint: name }));
    return withDashboard({ script: { ...MONTH, traffic: huge, entries }, width: 360 }, async ({ page }) => {
      await loaded(page);
      assert.equal(await page.locator("img[src]").count(), 0);
      assert.equal(await overflow(page), 0);
      await assertNoFindings(page);
      await picture(page, "huge");
    });
  });
});

describe("the pictures", () => {
  for (const [name, options] of Object.entries({
    light: { scheme: "light" },
    dark: { scheme: "dark" },
    narrow: { width: 360, height: 740 },
    "narrow-dark": { width: 360, height: 740, scheme: "dark" },
    wide: { width: 1920, height: 1080 },
  })) {
    test(`${name}: nothing is cut off, and axe finds nothing`, () =>
      withDashboard(options, async ({ page }) => {
        await month(page);
        assert.equal(await overflow(page), 0);
        await assertNoFindings(page);
        await picture(page, name);
        await page.locator("#entries tbody button").first().click();
        await page.getByRole("dialog").getByText("Response headers").first().waitFor();
        await assertNoFindings(page);
        await page.screenshot({ path: path.join(PICTURES, `${name}-entry.png`) });
      }));
  }
});

test("the picture of the documentation shows the first two panels", () =>
  withDashboard({ width: 1200, height: 1130 }, async ({ page }) => {
    await month(page);
    await page.screenshot({ path: path.join(PICTURES, "documentation.png") });
  }));

test("everything can be reached with the keyboard alone, in the order of the page", () =>
  withDashboard({}, async ({ page }) => {
    await month(page);
    const reached = [];
    await page.evaluate(() => /** @type {HTMLElement} */ (document.activeElement)?.blur());
    for (let i = 0; i < 120; i += 1) {
      await page.keyboard.press("Tab");
      const panelId = await page.evaluate(
        () =>
          document.activeElement?.closest("section, header.top")?.id ||
          document.activeElement?.closest("header.top")?.className,
      );
      if (panelId && reached.at(-1) !== panelId) reached.push(panelId);
      if (panelId === "health") break;
    }
    assert.deepEqual(reached, ["top", "saved", "over-time", "why", "breakdown", "entries", "health"]);
  }));

// The page has to do the same work for much data as for little: what is shown is bounded. Ratios do not depend on the machine.
test("a year of traffic and 5,000 entries are painted about as fast as an empty ledger", async (context) => {
  const year = {
    ...MONTH,
    traffic: traffic({ until: NOW, days: 365 }),
    entries: entriesOf({ until: NOW, count: 5000 }),
  };
  const milliseconds = async (script) => {
    const times = [];
    for (let i = 0; i < 3; i += 1) {
      await withDashboard({ script }, async ({ page }) => {
        await page
          .locator("#entries")
          .getByText(/Nothing is stored yet|of 5,000/)
          .waitFor();
        await page.locator("#health .lamps").waitFor();
        times.push(await paintTime(page));
      });
    }
    return times.toSorted((a, b) => a - b)[1];
  };
  const [empty, full] = [await milliseconds(EMPTY), await milliseconds(year)];
  context.diagnostic(`from the data to the paint: empty ${empty.toFixed(0)} ms, a year ${full.toFixed(0)} ms`);
  assert.ok(full < 6 * empty, `empty ${empty} ms, a year ${full} ms`);
});

/** Milliseconds from a refresh's last response to the next paint. */
const paintTime = (page) =>
  page.evaluate(async () => {
    const real = globalThis.fetch;
    let pending = 0;
    let last = 0;
    const done = new Promise((resolve) => {
      globalThis.fetch = async (/** @type {Parameters<typeof fetch>} */ ...args) => {
        pending += 1;
        const response = await real(...args);
        const json = response.json.bind(response);
        response.json = async () => {
          const value = await json();
          pending -= 1;
          last = performance.now();
          if (pending === 0) resolve(undefined);
          return value;
        };
        return response;
      };
    });
    const refresh = [...document.querySelectorAll("button")].find((button) => button.textContent?.trim() === "Refresh");
    refresh?.click();
    await done;
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve))));
    return performance.now() - last;
  });
