// Pseudo-random numbers that follow from a seed, so that a run can be repeated (mulberry32).

/** 32 random bits a call, as a whole number. */
function randomBits(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** A function that returns numbers from 0 up to 1. */
export function randomNumbers(seed) {
  const bits = randomBits(seed);
  return () => bits() / 2 ** 32;
}

/** A function that returns whole numbers from 0 up to its argument. */
export function randomIntegers(seed) {
  const bits = randomBits(seed);
  return (below) => bits() % below;
}
