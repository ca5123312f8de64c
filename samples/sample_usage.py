"""The official openai-python client through Reprise: the base URL is the only change.

    npm start                          (in another terminal)
    OPENAI_API_KEY=… python samples/sample_usage.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:8787/proxy"))


def send(label: str, headers: dict[str, str] | None = None) -> None:
    """Sends the same request and prints what the cache did."""
    response = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Write a haiku about computers."}],
        extra_headers=headers,
    )
    print(f"{label}: {response.headers['x-cache-status']} {response.headers['cache-status']}")
    print(response.parse().choices[0].message.content)


# The first request goes to OpenAI, unless it was sent before with this key.
send("first")
# The second is served from the cache.
send("second")
# A new response that expires after a day. The request that stores a response determines its lifetime.
send("refreshed, for a day", {"X-Proxy-Refresh": "true", "X-Proxy-TTL": str(24 * 60 * 60)})
