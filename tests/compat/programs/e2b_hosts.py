"""A sandbox by its hosts behind TLS, as the Python SDKs of E2B reach it when they only know E2B_DOMAIN."""

import urllib.request

from e2b_code_interpreter import Sandbox

SERVER = "python3 -u -m http.server 8000 --directory /home/user"


def main() -> None:
    """The control plane, both planes of a sandbox, and one of its ports, each at its own host."""
    with Sandbox.create(timeout=300) as sandbox:
        assert sandbox.is_running()
        assert sandbox.commands.run("echo $((6*7))").stdout == "42\n"
        sandbox.files.write("page.txt", "by its host")
        assert sandbox.files.read("page.txt") == "by its host"
        assert _got(sandbox.download_url("page.txt")) == "by its host"
        assert sandbox.run_code("6 * 7").text == "42"
        server = sandbox.commands.run(SERVER, background=True)
        assert _got(f"https://{sandbox.get_host(8000)}/page.txt") == "by its host"
        server.kill()
        assert [one.sandbox_id for one in Sandbox.list().next_items()] == [sandbox.sandbox_id]
    assert not sandbox.is_running()
    print("done")


def _got(url: str) -> str:
    """What is there: Bay waits until something listens."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - of this test
        return answer.read().decode()


main()
