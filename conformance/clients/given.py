# What a program is told, and how it says what it got: one JSON object of results by operation.
import json
import os

given = json.loads(os.environ["CONFORMANCE"])
base, key, prompts, model, embedding, tool = (given[name] for name in ["base", "key", "prompts", "model", "embedding", "tool"])


def report(**operations):
    results = {}
    for name, operation in operations.items():
        try:
            results[name] = {"got": operation()}
        except Exception as error:
            results[name] = {"error": getattr(error, "status_code", None) or repr(error)}
    print(json.dumps(results))
