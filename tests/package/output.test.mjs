// The output of the command on a terminal, and its input. JSON output is tested with the packed command.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { extraCertificates } from "../../cli/certificates.js";
import { COMMANDS } from "../../cli/commands.js";
import { FLAGS } from "../../cli/flags.js";
import { Folder } from "../../cli/folder.js";
import { helpText, readOptions } from "../../cli/options.js";
import { createOutput, formatBytes, usesColor } from "../../cli/output.js";
import { readEnvFile } from "../../cli/variables.js";
import { workerdConfig } from "../../cli/workerd-config.js";
import { packageFaults } from "../../scripts/package.mjs";
import { temporaryFolder } from "../../testkit/processes.mjs";

const REQUEST = {
  method: "POST",
  route: "/proxy/chat/completions",
  model: "gpt-4o",
  status: 200,
  cache: "HIT",
  reason: null,
  ms: 3,
};

function written(act, options = {}) {
  let text = "";
  act(createOutput({ write: (part) => (text += part), json: false, color: false, quiet: false, ...options }));
  return text;
}
const lineOf = (changes, options) =>
  written((output) => output.workerLine(JSON.stringify({ ...REQUEST, ...changes })), options);

test("a request is one readable line", () => {
  assert.equal(lineOf({}), "HIT            3 ms chat/completions gpt-4o\n");
  assert.equal(
    lineOf({ cache: "MISS", ms: 1412, route: "/openai/v1/embeddings", model: null }),
    "MISS       1,412 ms openai/v1/embeddings\n",
  );
  assert.equal(
    lineOf({ method: "GET", route: "/v1/models", cache: "BYPASS", reason: "method", model: null }),
    "BYPASS         3 ms GET models method\n",
  );
  assert.equal(lineOf({ cache: "MISS", status: 502 }), "MISS           3 ms chat/completions gpt-4o 502\n");
  const tokens = { input_tokens: 1_200, output_tokens: 34 };
  assert.equal(lineOf(tokens), "HIT            3 ms chat/completions gpt-4o saved 1,234 tokens\n");
  assert.equal(lineOf({ ...tokens, cache: "MISS" }), "MISS           3 ms chat/completions gpt-4o\n");
});

test("a client's text cannot steer the terminal", () => {
  const line = lineOf({ model: "a\u001b[2Jb\u009bc\nd", route: "/proxy/\u0007x" });
  assert.equal(line, "HIT            3 ms ?x a?[2Jb?c?d\n");
  assert.equal(
    written((output) => output.workerLine("not JSON \u001b[31m")),
    "not JSON ?[31m\n",
  );
});

test("colour is used on a terminal only, and NO_COLOR is respected", () => {
  assert.ok(usesColor({}, true));
  assert.ok(usesColor({ NO_COLOR: "" }, true));
  assert.ok(!usesColor({}, false));
  assert.ok(!usesColor({ NO_COLOR: "1" }, true));
  assert.ok(!usesColor({ TERM: "dumb" }, true));
  assert.ok(lineOf({}, { color: true }).includes("\u001b[32m"));
  assert.ok(!lineOf({}).includes("\u001b"));
});

test("the start says what to paste, and shows a link that logs in on a terminal only", () => {
  const at = {
    url: "http://127.0.0.1:8787",
    pid: 1,
    dir: "/x/.reprise",
    entries: 1,
    bytes: 1234,
    adminToken: "secret",
  };
  const text = written((output) => output.listening(at));
  assert.match(text, /http:\/\/127\.0\.0\.1:8787\/proxy/);
  assert.match(text, /\/x\/\.reprise \(1 entry, 1\.2 kB\)/);
  assert.match(text, /dashboard {5}http:\/\/127\.0\.0\.1:8787\/dashboard#token=secret\n/);
  assert.ok(!written((output) => output.listening(at), { json: true }).includes("secret"));
});

test("the summary counts outcomes and errors", () => {
  const text = written(
    (output) => {
      for (const cache of ["HIT", "HIT", "COALESCED", "MISS"]) output.workerLine(JSON.stringify({ ...REQUEST, cache }));
      output.workerLine(JSON.stringify({ ...REQUEST, cache: null, status: 404 }));
      output.summary();
    },
    { quiet: true },
  );
  assert.equal(text, "\n  5 requests · 2 HIT · 1 COALESCED · 1 MISS\n  3 upstream requests saved, 1 error\n");
});

test("the summary counts the tokens that were saved", () => {
  const text = written(
    (output) => {
      const tokens = { input_tokens: 1_000, output_tokens: 500 };
      for (const cache of ["MISS", "HIT", "COALESCED"]) {
        output.workerLine(JSON.stringify({ ...REQUEST, cache, ...tokens }));
      }
      output.summary();
    },
    { quiet: true },
  );
  assert.match(text, /2 upstream requests and 3,000 tokens saved, 0 errors/);
});

test("sizes are read and written in units", () => {
  const size = (text) => readOptions(["--max-size", text], {}).flags["max-size"];
  assert.deepEqual(["500", "1kB", "1.5MB", "1 GiB", "2tib"].map(size), [500, 1000, 1_500_000, 2 ** 30, 2 ** 41]);
  for (const wrong of ["0", "-1", "1 XB", "", "GB"]) assert.throws(() => size(wrong), /--max-size/);
  assert.deepEqual([0, 999, 1000, 2_500_000].map(formatBytes), ["0 B", "999 B", "1.0 kB", "2.5 MB"]);
});

test("variables come from the command line, the file and the environment, in this order", () => {
  const { folder } = temporaryFolder();
  const file = path.join(folder, "variables");
  writeFileSync(file, "\uFEFF# comment\r\nexport A=file\r\n\nB = \"file \\n #\" \nC='it''s'\nD=a=b\nE=\n");
  const given = ["--var", "A:flag:x", "--var", "F:", "--env-file", file, "--upstream", "http://h/v1"];
  const env = {
    REPRISE_A: "env",
    REPRISE_B: "env",
    REPRISE_G: "env",
    REPRISE_OPENAI_CACHE: "env",
    REPRISE_lower: "x",
    A: "no",
  };
  const { variables, adminTokenIsNew } = readOptions(given, env);
  assert.deepEqual(Object.fromEntries([...variables].filter(([name]) => name !== "ADMIN_TOKEN")), {
    A: "flag:x",
    B: "file \\n #",
    C: "it''s",
    D: "a=b",
    E: "",
    F: "",
    G: "env",
    OPENAI_BASE_URL: "http://h/v1",
  });
  assert.ok(adminTokenIsNew);
  const token = (options) => options.variables.get("ADMIN_TOKEN");
  assert.notEqual(token(readOptions([], {})), token(readOptions([], {})));
  assert.equal(token(readOptions([], { REPRISE_ADMIN_TOKEN: "mine" })), "mine");
  assert.equal(readOptions([], { REPRISE_ADMIN_TOKEN: "mine" }).adminTokenIsNew, false);
});

test("every command takes flags that exist, and the help names each", () => {
  const all = helpText();
  for (const [name, { flags, load }] of Object.entries(COMMANDS)) {
    const own = helpText(name);
    for (const flag of flags) {
      assert.ok(Object.hasOwn(FLAGS, flag), flag);
      for (const text of [all, own]) assert.match(text, new RegExp(`^  --${flag}\\b`, "m"));
    }
    assert.equal(typeof load, "function");
  }
});

test("help is given whatever else is on the command line", () => {
  for (const args of [["--help"], ["-h", "nonsense"], ["serve", "--help", "--port", "x"]]) {
    assert.equal(readOptions(args, {}).flags.help, true);
  }
});

test("a message about a variable does not repeat its value", () => {
  const { folder } = temporaryFolder();
  const file = path.join(folder, "variables");
  writeFileSync(file, "A=1\nsk-secret\n");
  const message = (act) => {
    try {
      act();
    } catch (error) {
      return error.message;
    }
    return assert.fail("it is accepted");
  };
  assert.match(
    message(() => readEnvFile(file)),
    /line 2: expected NAME=value/,
  );
  for (const act of [() => readEnvFile(file), () => readOptions(["--var", "sk-secret"], {})]) {
    assert.ok(!message(act).includes("sk-secret"));
  }
  const both = ["--upstream", "http://a", "--var", "OPENAI_BASE_URL:http://b"];
  assert.match(
    message(() => readOptions(both, {})),
    /set the same/,
  );
});

test("the configuration names variables and holds no value", () => {
  const config = workerdConfig({
    folder: "/c",
    modules: [["m.js", "/p/m.js"]],
    variables: ["A"],
    host: "::1",
    port: 0,
  });
  assert.match(config, /\(name = "A", fromEnvironment = "REPRISE_A"\)/);
  assert.match(config, /address = "\[::1\]:0"/);
  assert.match(config, /embed "\.\.\/p\/m\.js"/);
  assert.ok(!config.includes("kvNamespace"));
});

test("Node's certificate authorities are trusted where the system has none", async () => {
  const { folder } = temporaryFolder();
  const bundle = path.join(folder, "bundle.crt");
  const bare = { platform: "linux", system: [bundle] };
  assert.ok((await extraCertificates({}, bare)).length > 50);
  assert.deepEqual(await extraCertificates({ SSL_CERT_FILE: "/x" }, bare), []);
  const [one, two] = await extraCertificates({}, bare);
  writeFileSync(bundle, `# two\n${one}\n${two}\n`);
  assert.deepEqual(await extraCertificates({}, bare), []);
  assert.deepEqual(
    (await extraCertificates({ NODE_EXTRA_CA_CERTS: bundle }, bare)).map((pem) => pem.trim()),
    [one, two].map((pem) => pem.trim()),
  );
  assert.deepEqual(await extraCertificates({ NODE_EXTRA_CA_CERTS: path.join(folder, "none") }, bare), []);
});

test("a package with a source, a secret, a missing file or too many bytes is refused", () => {
  const file = (name, text = "") => ({ name, bytes: Buffer.from(text) });
  const expected = ["cli/main.js", "package.json"];
  const good = [file("cli/main.js"), file("package.json")];
  assert.deepEqual(packageFaults(expected, good, 1_000_000), []);
  for (const name of ["src/lib.rs", "cli/.env", "tests/x.test.mjs", "cli/other.js"]) {
    assert.deepEqual(packageFaults(expected, [...good, file(name)], 1), [`It must not hold ${name}.`]);
  }
  assert.deepEqual(packageFaults([...expected, ".env"], [...good, file(".env")], 1), ["It must not hold .env."]);
  assert.deepEqual(packageFaults(expected, good.slice(1), 1), ["It lacks cli/main.js."]);
  assert.deepEqual(packageFaults(expected, good, 2_000_001), ["It has 2000001 bytes, and 2000000 is the most."]);
  for (const secret of [["sk", "proj", "0123456789abcdefABCD"].join("-"), `-----BEGIN EC ${"PRIVATE"} KEY-----`]) {
    const files = [file("cli/main.js", `const key = "${secret}";`), good[1]];
    assert.deepEqual(packageFaults(expected, files, 1), ["cli/main.js seems to hold a secret."]);
  }
});

test("files of objects that have been idle for long are removed, those of running ones are not", async () => {
  const { folder: at } = temporaryFolder();
  const folder = await Folder.open(path.join(at, "store"));
  const objects = path.join(folder.objects, "coalescer");
  folder.removeIdleObjects(); // there is none
  mkdirSync(objects);
  const name = (digit) => `${digit.repeat(64)}.sqlite`;
  const write = (file, hours) => {
    writeFileSync(path.join(objects, file), "");
    const time = Date.now() / 1000 - hours * 3600;
    utimesSync(path.join(objects, file), time, time);
  };
  write(name("a"), 2);
  write(name("b"), 0.5);
  write(name("c"), 2);
  write(`${name("c")}-wal`, 2);
  write("metadata.sqlite", 2);
  folder.removeIdleObjects();
  assert.deepEqual(readdirSync(objects), [name("b"), name("c"), `${name("c")}-wal`, "metadata.sqlite"]);
  folder.release();
});
