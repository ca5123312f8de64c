from client_input import base, embedding, key, model, prompts, report, tool
from openai import OpenAI

client = OpenAI(api_key=key, base_url=base, max_retries=0)


def ask(content, **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **more)


report(
    plain=lambda: ask(prompts["plain"]).choices[0].message.content,
    stream=lambda: "".join(chunk.choices[0].delta.content or "" for chunk in ask(prompts["stream"], stream=True) if chunk.choices),
    tools=lambda: ask(prompts["tools"], tools=[tool]).choices[0].message.tool_calls[0].function.arguments,
    embeddings=lambda: client.embeddings.create(model=embedding, input=prompts["embeddings"]).data[0].embedding,
    error=lambda: ask(prompts["error"]).choices[0].message.content,
)
