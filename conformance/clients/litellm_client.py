import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from client_input import base, embedding, key, model, prompts, report, tool
import litellm

settings = {"api_base": base, "api_key": key, "num_retries": 0, "max_retries": 0}


def ask(content, **more):
    return litellm.completion(model=f"openai/{model}", messages=[{"role": "user", "content": content}], **settings, **more)


report(
    plain=lambda: ask(prompts["plain"]).choices[0].message.content,
    stream=lambda: "".join(chunk.choices[0].delta.content or "" for chunk in ask(prompts["stream"], stream=True)),
    tools=lambda: ask(prompts["tools"], tools=[tool]).choices[0].message.tool_calls[0].function.arguments,
    embeddings=lambda: litellm.embedding(model=f"openai/{embedding}", input=[prompts["embeddings"]], encoding_format="float", **settings).data[0]["embedding"],
    error=lambda: ask(prompts["error"]).choices[0].message.content,
)
