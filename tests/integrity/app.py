"""Runs inside a sandbox: an HTTP app that sends numbered lines and sums up what it gets, and a TCP port that
sends all back.
"""

import hashlib
import http.server
import socket
import subprocess
import sys
import threading


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, how, size = self.path.split("/")
        self.send_response(200)
        chunked = how == "chunked"
        name, value = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", size)
        self.send_header(name, value)
        self.end_headers()
        command = f"seq 1 999999999 | head -c {size}"
        with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while data := process.stdout.read(50_000):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        digest = hashlib.sha256()
        while size := int(self.rfile.readline(), 16):
            left = size
            while left:
                data = self.rfile.read(min(left, 50_000))
                digest.update(data)
                left -= len(data)
            self.rfile.readline()
        self.rfile.readline()
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — as it is there
        pass


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(50_000):
            connection.sendall(data)


def accept(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdout.write(f"{server.server_port} {listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
