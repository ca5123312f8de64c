// Preact with tagged templates in place of JSX.
import htm from "htm";
import { h } from "preact";

export const html = htm.bind(h);
