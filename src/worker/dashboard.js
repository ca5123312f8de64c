import { headers, html } from "./dashboard-page.js";

/**
 * The page of `/dashboard`. It holds no data.
 *
 * @param {boolean} withBody false for HEAD
 */
export const dashboardResponse = (withBody) => new Response(withBody ? html : null, { headers });
