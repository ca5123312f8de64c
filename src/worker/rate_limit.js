// Whether a caller may ask once more. What fails, or takes longer than `ms`, is no reason to refuse it.
export async function allows(limiter, key, ms) {
  let clock;
  const late = new Promise((resolve) => (clock = setTimeout(resolve, ms, {})));
  try {
    const { success } = await Promise.race([limiter.limit({ key }), late]);
    return success !== false;
  } catch {
    return true;
  } finally {
    clearTimeout(clock);
  }
}
