// `reprise --open`: the browser gets the link to the dashboard, and no other user of the machine does.

import assert from "node:assert/strict";
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { dashboardLink, openDashboard } from "../../cli/open-dashboard.js";
import { temporaryFolder } from "../../testkit/processes.mjs";
import { waitFor } from "../../testkit/wait.mjs";

const { folder, remove } = temporaryFolder();
after(remove);

test("the link logs in only where the token may be shown", () => {
  assert.equal(dashboardLink("http://127.0.0.1:8787", "a+b/c"), "http://127.0.0.1:8787/dashboard#token=a%2Bb%2Fc");
  assert.equal(dashboardLink("http://127.0.0.1:8787"), "http://127.0.0.1:8787/dashboard");
});

test("the browser is given a private file that leads to the link", { skip: process.platform === "win32" }, async () => {
  const seen = path.join(folder, "seen");
  const opener = path.join(folder, "xdg-open");
  writeFileSync(opener, `#!/bin/sh\nprintf %s "$1" > ${seen}.tmp && mv ${seen}.tmp ${seen}\n`);
  chmodSync(opener, 0o755);
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
  const link = 'http://127.0.0.1:8787/dashboard#token=a"<&b';
  assert.equal(await openDashboard(link, { env, platform: "linux" }), true);
  await waitFor(() => existsSync(seen), "the opener to run");
  const url = readFileSync(seen, "utf8");
  assert.ok(!url.includes("token"), url);
  const file = fileURLToPath(url);
  assert.equal(statSync(file).mode & 0o077, 0);
  assert.equal(statSync(path.dirname(file)).mode & 0o077, 0);
  assert.ok(readFileSync(file, "utf8").includes("url=http://127.0.0.1:8787/dashboard#token=a&#34;&#60;&#38;b"));
});

test("without a program that opens, it says so", async () => {
  assert.equal(await openDashboard("http://x", { env: { PATH: path.join(folder, "none") }, platform: "linux" }), false);
});
