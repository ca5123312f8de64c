// `npm run fuzz [-- SECONDS [TARGET…]]`: each fuzz target for a while (20 seconds), from the committed seeds.
import { mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { main, root, run, say, systemEnv } from './lib.mjs';
import { ownTool } from './setup.mjs';

const CARGO_FUZZ = '0.13.2';

await main(import.meta, async () => {
  const [seconds = '20', ...wanted] = process.argv.slice(2);
  const fuzz = path.join(root, 'fuzz');
  const targets = readdirSync(path.join(fuzz, 'fuzz_targets')).map((file) => path.basename(file, '.rs'));
  const program = await ownTool('cargo-fuzz', 'cargo-fuzz', CARGO_FUZZ, 2);
  for (const target of wanted.length > 0 ? wanted : targets) {
    say(`${target}: ${seconds} seconds`);
    const corpus = path.join(fuzz, 'corpus', target);
    mkdirSync(corpus, { recursive: true });
    // Without a sanitizer a stable compiler will do; there is no unsafe code to look for.
    const args = ['run', '--sanitizer', 'none', target, corpus, path.join(fuzz, 'seeds', target), '--'];
    await run(program, [...args, `-max_total_time=${seconds}`, '-print_final_stats=0', '-verbosity=0'],
      { env: { ...systemEnv, CARGO_TERM_QUIET: 'true' } });
  }
});
