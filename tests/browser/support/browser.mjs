// Chromium, and pages that note everything a page must not do.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { chromium } from "playwright-core";
import { findBrowser } from "../../../scripts/common.mjs";
import { ROOT } from "../../../testkit/processes.mjs";

const require = createRequire(import.meta.url);
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** Where the pictures go. */
export const PICTURES = path.join(ROOT, "target", "dashboard");
mkdirSync(PICTURES, { recursive: true });

export const startBrowser = () =>
  chromium.launch({ executablePath: findBrowser(), args: ["--no-sandbox", "--disable-gpu"] });

/**
 * Opens a page: { page, problems, close }. `problems`: violations of the policy, errors, messages of the console, and requests to other hosts.
 *
 * @param {import("playwright-core").Browser} browser
 * @param {string} url
 * @param {{ width?: number, height?: number, scheme?: "light" | "dark", now?: number, expected?: RegExp, touch?: boolean }} [options] `now`: the
 *   page's clock stands there; `expected`: messages that the test provokes
 */
export async function openPage(browser, url, { width = 1280, height = 900, scheme = "light", now, expected } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    reducedMotion: "reduce",
    locale: "en-GB",
    timezoneId: "UTC",
  });
  const page = await context.newPage();
  const problems = [];
  const note = (text) => !expected?.test(text) && problems.push(text);
  page.on("console", (message) => note(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => note(`error: ${error.stack}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin && !/^(data|blob):/.test(request.url()))
      note(`request: ${request.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) =>
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`),
    );
  });
  if (now !== undefined) await page.clock.setFixedTime(now);
  await page.goto(url);
  return { page, problems, context, close: () => context.close() };
}

/** The findings of axe, each with where it is. The policy of the page allows no script, so it is evaluated by the debugger. */
export async function findings(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() =>
    /** @type {any} */ (globalThis).axe.run(document, { resultTypes: ["violations"] }),
  );
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${help} at ${target.join(" ")}: ${failureSummary}`),
  );
}

export async function assertNoFindings(page) {
  assert.deepEqual(await findings(page), []);
}

/** Whether the page is wider than the window. */
export const overflow = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

export const picture = (page, name) => page.screenshot({ path: path.join(PICTURES, `${name}.png`), fullPage: true });
