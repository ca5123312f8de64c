// The login form.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";

/** @param {{ wasRefused: boolean, onEnter: (token: string) => void }} props */
export function Login({ wasRefused, onEnter }) {
  const [token, setToken] = useState("");
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => input.current?.focus(), []);
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (token.trim() !== "") onEnter(token.trim());
  };
  return html`<main class="login">
    <form onSubmit=${submit}>
      <h1>Reprise <span>what the cache did</span></h1>
      ${wasRefused && html`<p class="failure" role="alert" id="refused">This token is not valid, or no longer. <code>reprise</code> makes a new one at each start: use the link that it printed.</p>`}
      <label for="token">Admin token</label>
      <input id="token" name="token" type="password" ref=${input} value=${token} autocomplete="off" spellcheck=${false} required
        aria-invalid=${wasRefused} aria-describedby=${wasRefused ? "refused where" : "where"}
        onInput=${(/** @type {InputEvent & { currentTarget: HTMLInputElement }} */ event) => setToken(event.currentTarget.value)} />
      <p class="hint" id="where">The value of <code>ADMIN_TOKEN</code>. It stays in this tab until you close it.</p>
      <button type="submit" class="primary">Show the dashboard</button>
    </form>
  </main>`;
}
