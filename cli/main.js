#!/usr/bin/env -S node --
// The command `reprise`. Without the dashes, Node would take --env-file for its own flag.
// An older Node cannot load the other modules.

const [major, minor] = process.versions.node.split(".").map(Number);
if (major > 18 || (major === 18 && minor >= 17)) await import("./run.js");
else {
  process.stderr.write(`reprise: Node 18.17 or newer is needed, and this is ${process.versions.node}.\n`);
  process.exitCode = 1;
}
