// Every wait in these tests has a condition and a limit. The limit is no measure of speed: it is only there so
// that a condition that never comes true fails with a name instead of hanging.

const LIMIT_MS = 30_000;

export async function within(promise, what, limit = LIMIT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limit} ms in vain for ${what}`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
