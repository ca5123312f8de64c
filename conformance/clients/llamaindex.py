from client_input import base, embedding, key, model, prompts, report
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

settings = {"api_key": key, "api_base": base, "max_retries": 0}
llm = OpenAI(model=model, **settings)


def f(a: int) -> int:
    """f"""
    return a


def called():
    result = llm.chat_with_tools([FunctionTool.from_defaults(f)], user_msg=prompts["tools"])
    return llm.get_tool_calls_from_response(result)[0].tool_kwargs


report(
    plain=lambda: llm.complete(prompts["plain"]).text,
    stream=lambda: "".join(piece.delta or "" for piece in llm.stream_chat([ChatMessage(role="user", content=prompts["stream"])])),
    tools=called,
    embeddings=lambda: OpenAIEmbedding(model_name=embedding, **settings).get_query_embedding(prompts["embeddings"]),
    error=lambda: llm.complete(prompts["error"]).text,
)
