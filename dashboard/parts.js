// The elements that the panels share.
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { useMoment } from "./hooks.js";
import { html } from "./html.js";

/** @import { ComponentChildren } from "preact" */
/** @import { Load } from "./hooks.js" */

/**
 * A section of the page. While it loads, it shows a skeleton. Then it shows its content, or the error and a button to load it again.
 *
 * @param {{ id: string, title: string, hint?: string, load?: Load<unknown>, tools?: ComponentChildren, children?: ComponentChildren }} props
 */
export function Panel({ id, title, hint, load, tools, children }) {
  const waiting = load !== undefined && load.data === undefined && load.error === undefined;
  return html`<section class="panel" id=${id} aria-labelledby=${`${id}-title`} aria-busy=${load?.isLoading === true}>
    <header class="panel-head">
      <div>
        <h2 id=${`${id}-title`}>${title}</h2>
        ${hint && html`<p class="hint">${hint}</p>`}
      </div>
      ${tools && html`<div class="tools">${tools}</div>`}
    </header>
    ${waiting ? html`<${Skeleton} />` : load?.error ? html`<${Failure} error=${load.error} retry=${load.reload} />` : children}
  </section>`;
}

export const Skeleton = () =>
  html`<div class="skeleton" role="status"><span class="visually-hidden">Loading</span><i></i><i></i><i></i></div>`;

/** @param {{ error: Error, retry?: () => void }} props */
export function Failure({ error, retry }) {
  return html`<div class="failure" role="alert">
    <p><strong>This could not be loaded.</strong> ${error.message}</p>
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;
}

/**
 * A value with an explanation, which is shown on focus and on hover.
 *
 * @param {{ children?: ComponentChildren, text: ComponentChildren, class?: string }} props
 */
export function Explained({ children, text, class: name = "" }) {
  const id = useId();
  const tip = useRef(/** @type {HTMLElement | null} */ (null));
  const [isOpen, setOpen] = useState(false);
  useEffect(() => {
    const box = tip.current;
    if (!isOpen || !box) return;
    box.style.left = "0px";
    const { left, right } = box.getBoundingClientRect();
    const edge = document.documentElement.clientWidth - 8;
    box.style.left = `${Math.max(8 - left, Math.min(0, edge - right))}px`;
  }, [isOpen]);
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && setOpen(false);
  return html`<span class=${`explained ${name}`} onMouseEnter=${() => setOpen(true)} onMouseLeave=${() => setOpen(false)}>
    <button type="button" aria-describedby=${id} onFocus=${() => setOpen(true)} onBlur=${() => setOpen(false)} onKeyDown=${onKeyDown}>
      ${children}
    </button>
    <span role="tooltip" id=${id} class="tip" hidden=${!isOpen} ref=${tip}>${text}</span>
  </span>`;
}

/** A text to copy. @param {{ text: string, label?: string }} props */
export function Copyable({ text, label = "Copy" }) {
  const [isCopied, copied] = useMoment(2000);
  const code = useRef(/** @type {HTMLElement | null} */ (null));
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without a secure context there is no clipboard: the text is selected instead.
      if (code.current) getSelection()?.selectAllChildren(code.current);
      return;
    }
    copied();
  };
  return html`<span class="copyable">
    <code ref=${code}>${text}</code>
    <button type="button" class="small" onClick=${copy} aria-label=${`${label}: ${text}`}>${isCopied ? "Copied" : label}</button>
    <span class="visually-hidden" role="status">${isCopied ? "Copied" : ""}</span>
  </span>`;
}

/** A bar whose meaning is in the text beside it. @param {{ share: number, kind?: string }} props from 0 to 1 */
export function Bar({ share, kind = "" }) {
  const width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`;
  return html`<span class=${`bar ${kind}`} aria-hidden="true"><i style=${{ width }}></i></span>`;
}

/**
 * A choice of one option.
 *
 * @param {{ label: string, options: { id: string, label: string }[], value: string, onChange: (id: string) => void }} props
 */
export function Choice({ label, options, value, onChange }) {
  const name = useId();
  return html`<fieldset class="choice">
    <legend class="visually-hidden">${label}</legend>
    ${options.map(
      (option) => html`<label key=${option.id}>
        <input type="radio" name=${name} value=${option.id} checked=${option.id === value} onChange=${() => onChange(option.id)} />
        <span>${option.label}</span>
      </label>`,
    )}
  </fieldset>`;
}

/**
 * A region in which a wide table scrolls, also with the keyboard.
 *
 * @param {{ label: string, children?: ComponentChildren }} props
 */
export const Scroll = ({ label, children }) =>
  html`<div class="scroll" role="region" aria-label=${label} tabindex="0">${children}</div>`;
