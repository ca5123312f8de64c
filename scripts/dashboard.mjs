// Bundles dashboard/ into one page without references, and writes it as a module that the Worker imports.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { log, main, root, UserError } from "./common.mjs";

/** The file in build/. */
export const PAGE_MODULE = "dashboard-page.js";

const MAX_BYTES = 150_000;

/** The page and its header fields: { html, headers }. */
export async function page() {
  const { build } = await import("esbuild");
  const at = (name) => path.join(root, "dashboard", name);
  const bundled = async (entry, options) => {
    const { outputFiles } = await build({
      entryPoints: [at(entry)],
      bundle: true,
      minify: true,
      write: false,
      charset: "utf8",
      legalComments: "none", // index.html names the packages and their licences
      logLevel: "warning",
      ...options,
    });
    return outputFiles[0].text.trim();
  };
  const script = await bundled("main.js", { format: "iife", target: "es2022" });
  const style = await bundled("style.css", { loader: { ".css": "css" } });
  const parts = { "/* script */": script, "/* style */": style };
  // The replacement is a function, because a text may contain patterns such as `$&`.
  const html = readFileSync(at("index.html"), "utf8").replace(/\/\* (script|style) \*\//g, (mark) => parts[mark]);
  const bytes = Buffer.byteLength(html);
  if (bytes > MAX_BYTES) throw new UserError(`The dashboard has ${bytes} bytes, more than ${MAX_BYTES}.`);
  return { html, headers: headers(script, style) };
}

function headers(script, style) {
  const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
  const policy = [
    "default-src 'none'",
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    "img-src data:", // the icon
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ];
  return {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": policy.join("; "),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
  };
}

/** The text of the module. */
export async function pageModule() {
  const { html, headers } = await page();
  log(`dashboard: ${Math.round(Buffer.byteLength(html) / 1000)} kB`);
  return `// @ts-nocheck\nexport const html = ${JSON.stringify(html)};\nexport const headers = ${JSON.stringify(headers)};\n`;
}

await main(import.meta, async () => void (await pageModule()));
