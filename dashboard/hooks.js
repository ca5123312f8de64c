import { useCallback, useEffect, useRef, useState } from "preact/hooks";

/**
 * @template T
 * @typedef {{ data: T | undefined, error: Error | undefined, isLoading: boolean, reload: () => void }} Load
 */

/**
 * The result of a call, which is repeated whenever `inputs` change. The last result stays while the next one loads.
 *
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} call
 * @param {unknown[]} inputs
 * @returns {Load<T>}
 */
export function useLoad(call, inputs) {
  const [state, setState] = useState(
    /** @type {{ data?: T, error?: Error, isLoading: boolean }} */ ({ isLoading: true }),
  );
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    setState((last) => ({ ...last, isLoading: true }));
    call(controller.signal).then(
      (data) => !controller.signal.aborted && setState({ data, isLoading: false }),
      (error) => !controller.signal.aborted && setState({ error, isLoading: false }),
    );
    return () => controller.abort();
  }, [...inputs, attempt]);
  const reload = useCallback(() => setAttempt((n) => n + 1), []);
  return { data: state.data, error: state.error, isLoading: state.isLoading, reload };
}

/**
 * The time, updated every `ms` while the page is visible, and at each call of the function. Each update is a new object.
 *
 * @param {number} ms
 */
export function useClock(ms) {
  const [time, setTime] = useState(() => ({ now: Date.now() }));
  const tick = useCallback(() => setTime({ now: Date.now() }), []);
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === "visible" && tick(), ms);
    return () => clearInterval(timer);
  }, [ms]);
  return /** @type {const} */ ([time, tick]);
}

/** A value that outlives a reload of the tab. @param {string} name @param {string} initial */
export function useTabStorage(name, initial) {
  const [value, setValue] = useState(() => sessionStorage.getItem(name) ?? initial);
  const store = (/** @type {string} */ next) => {
    sessionStorage.setItem(name, next);
    setValue(next);
  };
  return /** @type {const} */ ([value, store]);
}

/** True for some seconds after each call of the function. @param {number} ms */
export function useMoment(ms) {
  const [isOn, setOn] = useState(false);
  const timer = useRef(/** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined));
  useEffect(() => () => clearTimeout(timer.current), []);
  const start = () => {
    setOn(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setOn(false), ms);
  };
  return /** @type {const} */ ([isOn, start]);
}
