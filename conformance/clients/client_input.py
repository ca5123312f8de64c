# The input of a client program, and its output: one JSON object of results by operation.
import json
import os

_input = json.loads(os.environ["CONFORMANCE"])
base, key, prompts, model, embedding, tool = (_input[name] for name in ["base", "key", "prompts", "model", "embedding", "tool"])


def report(**operations):
    results = {}
    for name, operation in operations.items():
        try:
            results[name] = {"got": operation()}
        except Exception as error:
            results[name] = {"error": getattr(error, "status_code", None) or repr(error)}
    print(json.dumps(results))
