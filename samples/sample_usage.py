"""The official openai-python client through Reprise: the base URL is the only change.

    npm start                          (in another terminal)
    OPENAI_API_KEY=… python samples/sample_usage.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:8787/proxy"))


def ask(what: str, headers: dict[str, str] | None = None) -> None:
    """Asks the same question and says what the cache did."""
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Write a haiku about computers."}],
        extra_headers=headers,
    )
    print(f"{what}: {answer.headers['x-cache-status']} {answer.headers['cache-status']}")
    print(answer.parse().choices[0].message.content)


# The first call goes to OpenAI, unless somebody with this key has asked before …
ask("first")
# … and the second comes from the cache.
ask("second")
# An answer that expires a day after it was stored: the lifetime belongs to the call that stores it.
ask("refreshed, for a day", {"X-Proxy-Refresh": "true", "X-Proxy-TTL": str(24 * 60 * 60)})
