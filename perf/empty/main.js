// The least that a main module is.
import { fetch } from "./index.js";

export default { fetch };
