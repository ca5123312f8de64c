// Every wait has a condition and a limit. The limit is no measure of speed: a condition that never comes true fails with a
// name instead of hanging.

import { setTimeout as sleep } from "node:timers/promises";

const LIMIT_MS = 30_000;
const POLL_MS = 5;

/**
 * The promise's result, or an error that names `what` if it takes longer than the limit.
 *
 * @template T
 * @param {PromiseLike<T>} promise
 * @param {string} what
 * @returns {Promise<T>}
 */
export async function withTimeout(promise, what, limitMs = LIMIT_MS) {
  let timer;
  const expired = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limitMs} ms in vain for ${what}`)), limitMs);
  });
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Polls until `condition` gives something truthy, and returns that. For conditions that nothing announces.
 *
 * @template T
 * @param {() => T | PromiseLike<T>} condition
 * @param {string} what
 * @returns {Promise<NonNullable<T>>}
 */
export async function waitFor(condition, what, { limitMs = LIMIT_MS, pollMs = POLL_MS } = {}) {
  const poll = async () => {
    for (;;) {
      const result = await condition();
      if (result) return result;
      if (stopped) return undefined;
      await sleep(pollMs);
    }
  };
  let stopped = false;
  try {
    return await withTimeout(poll(), what, limitMs);
  } finally {
    stopped = true;
  }
}

const WINDOW_MS = 60_000;

/**
 * Runs `act` so that it begins and ends in one window of a rate limit: the runtime aligns them to the wall clock. If a new window
 * has begun meanwhile, `act` runs again.
 */
export async function withinOneWindow(act) {
  const window = () => Math.floor(Date.now() / WINDOW_MS);
  for (;;) {
    const began = window();
    try {
      await act();
      if (window() === began) return;
    } catch (error) {
      if (window() === began) throw error;
    }
  }
}

/**
 * A promise with the functions that settle it.
 *
 * @returns {{ promise: Promise<any>, resolve: (value?: any) => void, reject: (error: Error) => void }}
 */
export function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((...settle) => ([resolve, reject] = settle));
  return { promise, resolve, reject };
}
