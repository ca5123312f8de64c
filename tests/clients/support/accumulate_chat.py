"""For each line of standard input, a chat stream's bytes in base64, one line of JSON: what openai-python makes of it."""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from openai import OpenAI

body = b""


class Upstream(BaseHTTPRequestHandler):
    """Responds to everything with the stream."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = OpenAI(api_key="sk-test", max_retries=0, base_url=f"http://127.0.0.1:{server.server_port}/v1")
for line in sys.stdin:
    body = base64.b64decode(line)
    try:
        with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream:
            for _ in stream:
                pass
            print(stream.get_final_completion().to_json(indent=None, exclude_unset=True), flush=True)
    except Exception as error:
        print(json.dumps({"failed": repr(error)}), flush=True)
