"""A model that is a script: it asks for one command, and then repeats its output. It has the forms of three
APIs: chat completions and responses of OpenAI, messages of Anthropic.
"""

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
            answer = json.dumps(FORMS[self.path](body, command)).encode()
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
    """An answer of `chat/completions`, to a program with one tool."""
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


def responses(body: Said, command: str) -> Said:
    """An answer of `responses`, to the OpenAI Agents SDK."""
    last: Said = body["input"][-1]
    said: Said = {"id": "out-1", "status": "completed"}
    if last.get("type") == "function_call_output":
        text: Said = {"type": "output_text", "text": f"It printed: {last['output']}", "annotations": []}
        said |= {"type": "message", "role": "assistant", "content": [text]}
    else:
        arguments = json.dumps({"cmd": command})
        said |= {"type": "function_call", "call_id": "c", "name": "exec_command", "arguments": arguments}
    usage: Said = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "r", "object": "response", "created_at": 0, "model": body["model"], "status": "completed",
        "output": [said], "parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "usage": usage,
    }  # fmt: skip


def messages(body: Said, command: str) -> Said:
    """An answer of `messages`, to Deep Agents."""
    content: Any = body["messages"][-1]["content"]
    results: list[Said] = (
        [] if isinstance(content, str) else [p for p in content if p["type"] == "tool_result"]
    )
    if results:
        said: Said = {"type": "text", "text": f"It printed: {results[-1]['content']}"}
    else:
        said = {"type": "tool_use", "id": "t", "name": "execute", "input": {"command": command}}
    return {
        "id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [said],
        "stop_reason": "end_turn" if results else "tool_use", "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip


FORMS = {"/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages}
