// Reads the files of cases, validates them against case.schema.json and expands their compact forms.

import { readdirSync, readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { APIS } from "./api-fixtures.mjs";

/** The cases for every gateway, and those that need Reprise's configuration, clock or store. */
export const GENERIC = new URL("../cases/", import.meta.url);
export const REPRISE_ONLY = new URL("../cases/reprise/", import.meta.url);

const SCHEMA = JSON.parse(readFileSync(new URL("../case.schema.json", import.meta.url), "utf8"));
/** @typedef {Record<string, any>} Json */

export const TOPICS = SCHEMA.$defs.topic.enum;

const isValid = new Ajv2020({ allErrors: true, allowUnionTypes: true }).compile(SCHEMA);

/** The cases of all files of a folder, each with the name of its `file`. */
export function loadCases(folder = GENERIC) {
  const names = readdirSync(folder)
    .filter((name) => name.endsWith(".json"))
    .sort();
  const cases = names.flatMap((name) => expand(JSON.parse(readFileSync(new URL(name, folder), "utf8")), name));
  const seen = new Set();
  for (const { id, file } of cases) {
    if (seen.has(id)) throw new Error(`${file}: there are two cases ${id}`);
    seen.add(id);
  }
  return cases;
}

/**
 * The cases of a file's content. Throws an error that says what is wrong.
 *
 * @param {any} content
 */
export function expand(content, file = "cases") {
  if (!isValid(content)) {
    const errors = isValid.errors.map(
      ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
    );
    throw new Error(`${file} does not fit case.schema.json:\n${errors.slice(0, 20).join("\n")}`);
  }
  const { defaults, cases = [], parameters = {}, spellings = [], statuses = [] } = /** @type {Json} */ (content);
  const { response: defaultResponse, ...fields } = defaults;
  const expanded = [
    ...cases,
    ...Object.entries(parameters).flatMap(([api, entries]) => expandParameters(api, entries)),
    ...spellings.map(expandSpelling),
    ...statuses.map(expandStatus),
  ].map((entry) => ({ ...fields, ...withoutUndefined(entry), file, ...(defaultResponse && { defaultResponse }) }));
  for (const entry of expanded) {
    for (const field of ["kind", "topic", "basis"])
      if (entry[field] === undefined) throw new Error(`${file}: ${entry.id} has no ${field}`);
    for (const api of apisOf(entry)) if (!APIS[api]) throw new Error(`${file}: ${entry.id} has an unknown API: ${api}`);
  }
  return expanded;
}

const withoutUndefined = (object) =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));

const apisOf = ({ api, steps }) =>
  [api, ...steps.flatMap(({ request, parallel = [] }) => [request, ...parallel].map((one) => one?.api))].filter(
    (name) => name !== undefined,
  );

// A case for each parameter: another value of it, or its absence, needs another cache key, and the first value is still a hit.
function expandParameters(api, entries) {
  return Object.entries(entries)
    .filter(([, entry]) => typeof entry !== "string")
    .map(([name, entry]) => {
      const {
        values,
        base = {},
        path = name,
        required = false,
        why,
        profile,
        kind,
      } = Array.isArray(entry) ? { values: entry } : entry;
      const request = (value) => ({ set: { ...base, [path]: value } });
      /** @type {Json[]} */
      const steps = [
        { request: request(values[0]), expect: { cache: "stored", forwards: { member: path } }, precondition: true },
        { request: request(values[1]), cacheKey: "changed", expect: { cache: "separate" } },
      ];
      if (!required)
        steps.push({ request: { set: base, remove: [path] }, cacheKey: "left out", expect: { cache: "separate" } });
      steps.push({ request: request(values[0]), expect: { cache: "either" } });
      const because = why === undefined ? "" : `, because ${why}`;
      return {
        id: `key-${api}-${slug(name)}`,
        name: `${api}: \`${name}\` is part of the cache key${because}`,
        kind,
        profile,
        api,
        steps,
      };
    });
}

// With the same key the second spelling should be a hit; with another it must not be.
function expandSpelling({ id, name, api, a, b, sameKey, kind, basis }) {
  const second = sameKey
    ? { request: b, expect: { cache: "hit" } }
    : { request: b, cacheKey: "other", expect: { cache: "separate" } };
  const steps = [{ request: a, expect: { cache: "stored" }, precondition: true }, second];
  return { id, name, kind: kind ?? (sameKey ? "should" : "must"), basis, api, steps };
}

/** @param {Json} status */
function expandStatus({
  status,
  response = {},
  id = `status-${status}`,
  name = `a response with status ${status} is never served from the cache`,
  kind,
}) {
  const hasBody = response.json !== undefined || response.body !== undefined;
  const error = hasBody || status < 300 ? {} : { error: "server_error" };
  return { id, name, kind, steps: [{ response: { status, ...error, ...response }, expect: { cache: "not stored" } }] };
}

const slug = (name) =>
  name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
