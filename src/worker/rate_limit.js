/** @typedef {{ limit(options: { key: string }): Promise<{ success: boolean }> }} RateLimit Workers' rate limiting binding. */

/**
 * Whether one more request is allowed under `key`. An error or a timeout allows it.
 *
 * @param {RateLimit} limiter
 * @param {string} key
 * @param {number} timeoutMs
 */
export async function allows(limiter, key, timeoutMs) {
  /** @type {ReturnType<typeof setTimeout> | null} */
  let timer = null;
  /** @type {Promise<{ success?: boolean }>} */
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, timeoutMs, {});
  });
  try {
    const { success } = await Promise.race([limiter.limit({ key }), timeout]);
    return success !== false;
  } catch {
    return true;
  } finally {
    clearTimeout(timer);
  }
}
