// The names of common.mjs before they changed, until nothing imports them.
export * from "./common.mjs";
export { findProgram as which, log as say, retry as patiently, UserError as Stop } from "./common.mjs";
