// The dashboard as the built Worker serves it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { page as built } from "../../scripts/dashboard.mjs";
import { send } from "../../testkit/client.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { openPage, startBrowser } from "./support/browser.mjs";

let browser;
before(async () => {
  browser = await startBrowser();
});
after(() => browser?.close());

test("the Worker serves the page with its policy, and without cookies", async () => {
  const { origin } = await worker({ vars: { ADMIN_TOKEN: "adm" } });
  const { html, headers } = await built();
  const reply = await send(origin, { method: "GET", path: "/dashboard" });
  assert.equal(reply.status, 200);
  assert.equal(reply.body.toString(), html);
  for (const [name, value] of Object.entries(headers)) assert.equal(reply.headers[name], value, name);
  assert.equal(reply.headers["set-cookie"], undefined);
  const head = await send(origin, { method: "HEAD", path: "/dashboard" });
  assert.deepEqual([head.status, head.body.length], [200, 0]);
  assert.equal(head.headers["content-security-policy"], headers["content-security-policy"]);
});

test("without ADMIN_TOKEN there is no page", async () => {
  const { origin } = await worker({ vars: {} });
  assert.equal((await send(origin, { method: "GET", path: "/dashboard" })).status, 404);
});

test("the Worker refuses a wrong token", async () => {
  const { origin } = await worker({ vars: { ADMIN_TOKEN: "adm" } });
  const { page, problems, close } = await openPage(browser, `${origin}/dashboard#token=wrong`, { expected: /401/ });
  await page.getByRole("alert").getByText("This token is not valid").waitFor();
  assert.deepEqual(problems, []);
  await close();
});
