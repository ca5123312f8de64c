// What `npm run build` makes of dashboard/, for the type checker.

/** The whole page. */
export const html: string;

/** The header fields of the page, with the Content-Security-Policy that has its hashes. */
export const headers: Record<string, string>;
