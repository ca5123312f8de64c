// `npm run demo`: `reprise demo` with the Worker built from this checkout.
import path from "node:path";
import { build } from "./build.mjs";
import { main, node, root, run } from "./common.mjs";

await main(import.meta, async () => {
  await build();
  return run(node(), [path.join(root, "cli", "main.js"), "demo"], { silent: true });
});
