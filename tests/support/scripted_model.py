"""A model that is a script, behind an API of OpenAI's form: it asks for a command, and repeats its output."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = dict[str, Any]


@contextmanager
def serving(command: str) -> Generator[tuple[str, list[Said]]]:
    """The base URL of the API, and the bodies that it was sent."""
    asked: list[Said] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body: Said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            answer = json.dumps(chat(body, command)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat(body: Said, command: str) -> Said:
    """An answer of `chat/completions`."""
    last: Said = body["messages"][-1]
    message: Said = {"role": "assistant", "content": None}
    if last["role"] == "tool":
        message["content"] = f"It printed: {last['content']}"
    else:
        function = {
            "name": body["tools"][0]["function"]["name"],
            "arguments": json.dumps({"command": command}),
        }
        message["tool_calls"] = [{"id": "call-1", "type": "function", "function": function}]
    return {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
