from client_input import base, embedding, key, model, prompts, report, tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

settings = {"api_key": key, "base_url": base, "max_retries": 0}
chat = ChatOpenAI(model=model, **settings)

report(
    plain=lambda: chat.invoke(prompts["plain"]).content,
    stream=lambda: "".join(chunk.content for chunk in chat.stream(prompts["stream"])),
    tools=lambda: chat.bind_tools([tool]).invoke(prompts["tools"]).tool_calls[0]["args"],
    # The check would count tokens, which needs a table from the internet.
    embeddings=lambda: OpenAIEmbeddings(model=embedding, check_embedding_ctx_length=False, **settings).embed_query(prompts["embeddings"]),
    error=lambda: chat.invoke(prompts["error"]).content,
)
