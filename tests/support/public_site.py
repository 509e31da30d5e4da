"""A program: a host that serves HTTP at port 80 of an address, and at port 53 names that all lead to it.
`/hello` is a line, `/endless` has no end. It says `ready`.
"""

import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dns.message
import dns.rrset


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if self.path == "/endless":
            while True:
                self.wfile.write(bytes(65536))
        self.wfile.write(f"hello from {sys.argv[1]}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the library
        pass


class _Names(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        message, udp = self.request
        query = dns.message.from_wire(message)
        answer = dns.message.make_response(query, recursion_available=True)
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", sys.argv[1]))
        udp.sendto(answer.to_wire(), self.client_address)


class _SilentServer(ThreadingHTTPServer):
    address_family = socket.AF_INET
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client has ended


if __name__ == "__main__":
    names = socketserver.ThreadingUDPServer((sys.argv[1], 53), _Names)
    threading.Thread(target=names.serve_forever, daemon=True).start()
    site = _SilentServer((sys.argv[1], 80), _Site)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    site.serve_forever()
