// The project in template/ deploys the packed Worker as wrangler.toml deploys the built one.

import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { test } from "node:test";
import { execa } from "execa";
import { install } from "../../testkit/command.mjs";
import { ROOT } from "../../testkit/processes.mjs";
import { wranglerConfig } from "../../testkit/worker.mjs";

const require = createRequire(import.meta.url);
const template = path.join(ROOT, "template");
const manifestOf = (file) => JSON.parse(readFileSync(path.join(ROOT, file), "utf8"));

test("wrangler deploys the template with the packed Worker", async () => {
  const { folder } = await install();
  // Where the package is installed already.
  cpSync(path.join(template, "wrangler.jsonc"), path.join(folder, "wrangler.jsonc"));
  const wrangler = path.join(path.dirname(require.resolve("wrangler/package.json")), "bin", "wrangler.js");
  const { exitCode, all } = await execa(process.execPath, [wrangler, "deploy", "--dry-run", "--outdir", "out"], {
    cwd: folder,
    env: { WRANGLER_SEND_METRICS: "false", CLOUDFLARE_CF_FETCH_ENABLED: "false", NO_COLOR: "1", CI: "1" },
    all: true,
    reject: false,
  });
  assert.equal(exitCode, 0, all);
  assert.match(all, /OPENAI_CACHE/);
  assert.match(all, /COALESCER \(Coalescer\)/);
  assert.ok(existsSync(path.join(folder, "out", "main.js")));
});

test("the template has the bindings and the migrations of wrangler.toml", () => {
  const plain = (value) => JSON.parse(JSON.stringify(value)); // without the prototypes of the parsers
  const config = plain(require("wrangler").unstable_readConfig({ config: path.join(template, "wrangler.jsonc") }));
  const ours = plain(wranglerConfig());
  for (const field of [
    "name",
    "compatibility_date",
    "compatibility_flags",
    "kv_namespaces",
    "durable_objects",
    "migrations",
    "observability",
    "vars",
  ]) {
    assert.deepEqual(config[field], ours[field], field);
  }
});

test("the template depends on this version, and on the wrangler that it is tested with", () => {
  const { dependencies, devDependencies } = manifestOf("template/package.json");
  const own = manifestOf("package.json");
  assert.deepEqual(dependencies, { reprise: own.version });
  assert.deepEqual(devDependencies, { wrangler: own.dependencies.wrangler });
});

test("the template has no file of secrets, for each of which the button would ask", () => {
  for (const name of [".dev.vars.example", ".env.example", ".dev.vars", ".env"]) {
    assert.ok(!existsSync(path.join(template, name)), name);
  }
});
