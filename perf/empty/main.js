// The least that a main module is.
// @ts-expect-error: `npm run bench` compiles this module.
import { fetch } from "./index.js";

export default { fetch };
