// The caches that the suite is run against: how each is installed (pinned), started with its cache enabled, and spoken to. Each is
// configured as its documentation says, in its favour where there is a choice.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { userInfo } from "node:os";
import path from "node:path";

const file = (folder, name, text) => {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, name), text);
  return path.join(folder, name);
};

export const PEERS = [
  {
    id: "nginx",
    name: "nginx, our recipe",
    from: "Debian: nginx; conformance/peers/nginx.conf",
    system: { program: "nginx", package: "nginx", version: ["-v"] },
    start: ({ port, upstream, folder, program }) => {
      const conf = readFileSync(new URL("nginx.conf", import.meta.url), "utf8")
        .replaceAll("{port}", port)
        .replaceAll("{upstream}", upstream)
        .replaceAll("{folder}", folder)
        .replaceAll("{user}", userInfo().username);
      return { program, args: ["-p", folder, "-c", file(folder, "nginx.conf", conf), "-g", "daemon off;"] };
    },
    base: "/v1",
    adapter: {},
  },
  {
    id: "litellm",
    name: "LiteLLM proxy, on Redis",
    from: "PyPI: litellm[proxy]",
    needs: "redis-server",
    pip: { package: "litellm", version: "1.106.2", requirements: ["litellm[proxy]==1.106.2"] },
    // With Redis, as its documentation recommends (the memory cache holds 200 responses), and without retries. A second tenant would
    // need its database.
    start: ({ port, second, upstream, folder, bin, redis }) => ({
      companion: [redis, ["--port", String(second), "--bind", "127.0.0.1", "--save", "", "--dir", folder]],
      program: path.join(bin, "litellm"),
      args: [
        "--config",
        file(
          folder,
          "config.yaml",
          JSON.stringify(
            {
              model_list: [
                {
                  model_name: "claude-*",
                  litellm_params: { model: "anthropic/claude-*", api_base: upstream, api_key: "sk-upstream" },
                },
                {
                  model_name: "*",
                  litellm_params: { model: "openai/*", api_base: `${upstream}/v1`, api_key: "sk-upstream" },
                },
              ],
              litellm_settings: {
                cache: true,
                cache_params: { type: "redis", host: "127.0.0.1", port: second },
                num_retries: 0,
                request_timeout: 60,
              },
              router_settings: { num_retries: 0, disable_cooldowns: true },
              general_settings: { master_key: "sk-tenant-a", forward_client_headers_to_llm_api: true },
            },
            null,
            1,
          ),
        ),
        "--host",
        "127.0.0.1",
        "--port",
        String(port),
        "--telemetry",
        "False",
      ],
      env: { LITELLM_LOCAL_MODEL_COST_MAP: "True", NO_DOCS: "True", DISABLE_ADMIN_UI: "True", LITELLM_LOG: "ERROR" },
    }),
    ready: "/health/liveliness",
    base: "/v1",
    adapter: {
      tenants: { a: { authorization: "Bearer sk-tenant-a" } },
      controls: {
        ttl: { body: { "cache.ttl": "{value}" } },
        refresh: { body: { "cache.no-cache": true } },
        noStore: { body: { "cache.no-store": true } },
        maxAge: { body: { "cache.s-maxage": "{value}" } },
        namespace: { body: { "cache.namespace": "{value}" } },
        onlyIfCached: null,
      },
    },
  },
  {
    id: "portkey",
    hitTimeoutMs: 700,
    name: "Portkey gateway",
    from: "npm: @portkey-ai/gateway",
    npm: { package: "@portkey-ai/gateway", version: "1.15.2" },
    start: ({ port, modules }) => ({
      program: process.execPath,
      args: [path.join(modules, "@portkey-ai", "gateway", "build", "start-server.js"), `--port=${port}`, "--headless"],
      env: { TRUSTED_CUSTOM_HOSTS: "localhost,127.0.0.1" },
    }),
    base: "/v1",
    adapter: ({ upstream }) => {
      const config = (provider, host) => ({
        "x-portkey-config": JSON.stringify({ provider, custom_host: host, cache: { mode: "simple", max_age: 3600 } }),
      });
      return {
        headers: config("openai", `${upstream}/v1`),
        apiHeaders: {
          messages: config("anthropic", `${upstream}/v1`),
          "count-tokens": config("anthropic", `${upstream}/v1`),
        },
        controls: { refresh: { headers: { "x-portkey-cache-force-refresh": "true" } } },
      };
    },
  },
  {
    id: "llm-cache-proxy",
    name: "llm-cache-proxy",
    from: "PyPI: llm-cache-proxy",
    pip: { package: "llm-cache-proxy", version: "0.1.1", requirements: ["llm-cache-proxy==0.1.1"] },
    start: ({ port, upstream, folder, bin }) => ({
      program: path.join(bin, "llm-cache-proxy"),
      args: [],
      env: {
        OPENAI_UPSTREAM: upstream,
        ANTHROPIC_UPSTREAM: upstream,
        LLM_CACHE_DIR: path.join(folder, "cache"),
        LLM_CACHE_PORT: String(port),
      },
    }),
    base: "/openai/v1",
    adapter: {
      controls: {
        refresh: { headers: { "x-llm-cache-bypass": "1" } },
        noStore: { headers: { "x-llm-cache-bypass": "1" } },
        namespace: { headers: { "x-llm-cache-extra-key": "{value}" } },
        maxAge: null,
        onlyIfCached: null,
      },
    },
  },
  {
    id: "openai-forward",
    hitTimeoutMs: 700, // it stores in its own memory
    name: "openai-forward",
    from: "PyPI: openai-forward",
    pip: { package: "openai-forward", version: "0.8.1", requirements: ["openai-forward==0.8.1", "pyyaml==6.0.3"] },
    start: ({ port, upstream, folder, bin }) => ({
      program: path.join(bin, "python"),
      args: ["-m", "uvicorn", "openai_forward.app:app", "--host", "127.0.0.1", "--port", String(port)],
      cwd: folder,
      env: {
        FORWARD_CONFIG: JSON.stringify([{ base_url: upstream, route: "/", type: "openai" }]),
        CACHE_OPENAI: "true",
        LOG_OPENAI: "true", // otherwise nothing is parsed and nothing is cached
        CACHE_BACKEND: "MEMORY",
        DEFAULT_REQUEST_CACHING_VALUE: "true",
        CACHE_ROUTES: JSON.stringify(["/v1/chat/completions", "/v1/embeddings", "/v1/completions"]),
      },
    }),
    ready: "/healthz",
    base: "/v1",
    adapter: { controls: { noStore: { body: { caching: false } }, refresh: null, maxAge: null, onlyIfCached: null } },
  },
];
