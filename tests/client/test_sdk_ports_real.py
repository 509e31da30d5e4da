"""The SDK's ports on a real Bay with the `fake` driver: what it lists, links and opens is what Bay answers
to.
"""

from urllib.parse import urlsplit

import httpx
import pytest

import bay

SERVE = "import http.server as h; s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"


def ask(url: str, cookie: str = "") -> httpx.Response:
    """GET of a URL below `localhost`, which not every resolver knows to be here."""
    parts = urlsplit(url)
    target = f"http://127.0.0.1:{parts.port}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    return httpx.get(target, headers={"Host": parts.netloc, "Cookie": cookie}, trust_env=False, timeout=20)


def test_an_app_is_found_shared_and_reached(client: bay.Client) -> None:
    with client.sandbox(name="web") as box:
        box.files.write("hello.txt", "hello")
        port = int(next(iter(box.spawn(["python3", "-c", SERVE]).output())).data)
        (found,) = box.ports.list()
        assert (found.port, found.addresses, found.access) == (port, ("127.0.0.1",), "owner")
        assert found.url is not None
        assert box.url(port) == found.url
        assert ask(f"{found.url}hello.txt").status_code == 401
        link = box.ports.link(port, 60, once=True)
        opened = ask(link.url)
        assert (opened.status_code, opened.headers["location"], ask(link.url).status_code) == (303, "/", 401)
        cookie = opened.headers["set-cookie"].partition(";")[0]
        assert ask(f"{found.url}hello.txt", cookie).text == "hello"
        assert box.ports.set_access(port, "public") == bay.PortSettings(port=port, access="public")
        assert ask(f"{found.url}hello.txt").text == "hello"
        assert box.refresh().ports == (bay.PortSettings(port=port, access="public"),)
        box.ports.forget(port)
        assert ask(f"{found.url}hello.txt").status_code == 401
        box.update(url=bay.PortSettings(port=port, access="public"))
        assert ask(f"{box.url()}hello.txt").text == "hello"
        box.update(url=None)
        with pytest.raises(bay.NotFound):
            box.url()


def test_what_an_app_cannot_be_sent_is_refused_at_once(client: bay.Client) -> None:
    with client.sandbox() as box:
        with pytest.raises(bay.InvalidArgument, match=r"ports\.link"):
            box.fetch(9, "/", headers={"authorization": "Basic eDp5"})
        with pytest.raises(bay.InvalidArgument, match="this path cannot be sent"):
            box.fetch(9, "/a\r\nX-More: 1")


def test_a_port_where_nothing_listens_has_no_url_but_may_have_a_link(client: bay.Client) -> None:
    with client.sandbox(ports=[bay.PortSettings(port=9, access="public")]) as box:
        assert (box.info.ports, box.ports.list()) == ((bay.PortSettings(port=9, access="public"),), [])
        with pytest.raises(bay.NotFound):
            box.url(9)
        assert f"9-{box.id}.localhost" in box.ports.link(9).url
