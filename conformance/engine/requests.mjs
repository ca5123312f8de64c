// Builds the request of a step for a gateway.

import { bytesOf } from "../../testkit/upstream.mjs";
import { APIS } from "./api-fixtures.mjs";
import { removePath, withSet } from "./json-path.mjs";
import { NotApplicable } from "./outcome.mjs";

/** { api, origin, method, path, headers, body } of a step's `request`, with `origin` true if the path starts there. */
export function buildRequest(request, { entry, adapter, token }) {
  const api = request.path === undefined ? (request.api ?? entry.api ?? "chat") : undefined;
  const fixture = APIS[api] ?? {};
  const fill = (text) =>
    text.replaceAll("{token}", token).replace(/\{([a-z-]*model)\}/g, (_, model) => adapter.models[model]);
  if (adapter.paths[api] === null) throw new NotApplicable(`the gateway has no ${api}`);
  const tenant = adapter.tenants[request.tenant ?? "a"];
  if (!tenant) throw new NotApplicable(`the gateway has no tenant ${request.tenant}`);
  const method = request.method ?? (request.path !== undefined || fixture.body ? "POST" : "GET");
  const headers = { ...fixture.headers, ...tenant, ...adapter.headers, ...adapter.apiHeaders[api] };

  let object = jsonBody(request, fixture, method);
  for (const [control, value] of Object.entries(request.control ?? {})) {
    const how = adapter.controls[control];
    if (!how) throw new NotApplicable(`the gateway has no control for ${control}`);
    for (const [header, text] of Object.entries(how.headers ?? {}))
      headers[header] = fill(text.replaceAll("{value}", value));
    if (how.body && object === undefined) throw new NotApplicable(`the gateway takes ${control} in a JSON body only`);
    for (const [path, text] of Object.entries(how.body ?? {}))
      object = withSet(object, { [path]: text === "{value}" ? value : text });
  }
  const body =
    object === undefined ? rawBody(request, fill) : Buffer.from(fill(JSON.stringify({ ...object, ...adapter.body })));
  if (body !== undefined) headers["content-type"] = "application/json";
  for (const [header, value] of Object.entries(request.headers ?? {}))
    headers[header.toLowerCase()] = value === null ? null : fill(value);

  const path = request.path ?? (adapter.paths[api] ?? adapter.base + fixture.path) + (request.pathSuffix ?? "");
  return { api, fromOrigin: request.path !== undefined, method, path: fill(path), headers, body };
}

// The JSON body that `set`, `remove` and controls may change.
function jsonBody(request, fixture, method) {
  if (request.json !== undefined) return changed(request.json, request);
  const hasOwn = request.body !== undefined || request.base64 !== undefined || request.repeat !== undefined;
  if (hasOwn || request.path !== undefined || !fixture.body || method === "GET") return undefined;
  return changed(fixture.body, request);
}

function changed(object, { set = {}, remove = [] }) {
  const copy = withSet(object, set);
  for (const path of remove) removePath(copy, path);
  return copy;
}

function rawBody({ body, base64, repeat }, fill) {
  if (base64 !== undefined) return bytesOf({ base64 });
  if (repeat !== undefined)
    return bytesOf({ repeat: { ...repeat, head: fill(repeat.head ?? ""), tail: fill(repeat.tail ?? "") } });
  return body === undefined || body === null ? undefined : Buffer.from(fill(body));
}
