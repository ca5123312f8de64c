from client_input import base, key, model, prompts, report, tool
from anthropic import Anthropic

client = Anthropic(api_key=key, base_url=base.removesuffix("/v1"), max_retries=0)


def question(content):
    return {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": content}]}


def streamed():
    with client.messages.stream(**question(prompts["stream"])) as stream:
        return stream.get_final_message().content[0].text


report(
    plain=lambda: client.messages.create(**question(prompts["plain"])).content[0].text,
    stream=streamed,
    tools=lambda: client.messages.create(**question(prompts["tools"]), tools=[{"name": "f", "input_schema": tool["function"]["parameters"]}]).content[0].input,
    error=lambda: client.messages.create(**question(prompts["error"])).content[0].text,
)
