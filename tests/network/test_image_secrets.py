"""Secrets in sandboxes of images: their variables and files, and the trust in the broker that adds others."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from importlib.metadata import files as files_of
from pathlib import Path

import pytest
from image_files import TAR, ImageFile, Layer, digest_of, layer_of, layer_of_tree
from image_roots import DEBIAN, MUSL, busybox_root
from lab import Box, Lab, allow, allowlist, lab
from tls_site import TlsSite, tls_site
from world import World

from bay.images import fetch_cage

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(300)]

API, OWN = "api.example.com", "own.example.com"
ADDRESS, OWN_ADDRESS = "93.184.216.77", "93.184.216.79"
KEY, TOKEN = "the-key-that-is-added-outside", "the-token-that-is-given"
FILE = "/run/secrets/deep.token"
HELLO = "hello\n"
KINDS = ("debian", "busybox")
GIVEN = [{"name": "TOKEN"}, {"name": "TOKEN", "file": FILE}]
POLICY = allowlist(
    allow(domain=API, inject={"header": "Authorization", "secret": "KEY", "format": "Bearer {}"}),
    allow(domain=API, inject={"header": "X-Key", "secret": "KEY"}),
    allow(domain=OWN),
)
_WHEELS = ("requests", "urllib3", "charset-normalizer", "certifi", "idna")
_WHEELS_OF_HTTPX = ("httpx", "httpcore", "h11", "anyio", "typing-extensions")
_CURL = """#!/bin/sh
exec /opt/curl/loader --library-path /opt/curl /opt/curl/curl "$@"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of this module are made."""
    if not fetch_cage.is_installed() or not DEBIAN.is_file():
        pytest.skip("needs skopeo, and the Debian that `make .stamp-images` puts in tests/images")
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def site(earth: World, made: Path) -> Generator[TlsSite]:
    """The site whose requests get the key. The broker trusts its authority, and nothing in an image does."""
    earth.resolver.zone |= {(API, "A"): [ADDRESS], (OWN, "A"): [OWN_ADDRESS]}
    with tls_site(earth.internet, ADDRESS, [API], made) as running:
        yield running


@pytest.fixture(scope="module")
def own_site(earth: World, made: Path) -> Generator[TlsSite]:
    """Another one, reached as it is. Debian's image trusts its authority, and the broker does not."""
    with tls_site(earth.internet, OWN_ADDRESS, [OWN], made, stem="own") as running:
        yield running


@pytest.fixture(scope="module")
def bay(
    earth: World, root: Path, cache: Path, made: Path, site: TlsSite, own_site: TlsSite
) -> Generator[Lab]:
    """A Bay with both images, and both secrets."""
    settings = {
        "BAY_NETWORK_BROKER_TRUST": json.dumps([str(site.trust)]),
        "BAY_PROFILES": json.dumps({"python-default": {}, "own-user": {"user": "image"}}),
    }
    with lab(earth, root, cache, **settings) as running:
        for name, value in (("KEY", KEY), ("TOKEN", TOKEN)):
            running.ask("PUT", f"/v1/secrets/{name}", json={"value": value})
        bring(running, "busybox", [busybox(made), curl_layer()], made)
        bring(running, "debian", [debian(), curl_layer(), wheels(), trusting(own_site)], made)
        yield running


def bring(bay: Lab, name: str, layers: list[Layer], made: Path) -> None:
    """Import an image through the API, as `bay image import` does."""
    config = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "User": "www-data"}
    layout, archive = ImageFile(layers, {"config": config}).write(made / name), made / f"{name}.tar"
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    shutil.rmtree(layout)
    with archive.open("rb") as file:
        answer = bay.ask("POST", "/v1/images/import", params={"ref": f"{name}:1", "wait": 60}, content=file)
    archive.unlink()
    image = bay.ask("GET", f"/v1/images/{answer['id']}", params={"wait": 60})
    assert image["state"] == "ready", image


def debian() -> Layer:
    tar = DEBIAN.read_bytes()
    return Layer(tar, digest_of(tar), TAR)


def busybox(made: Path) -> Layer:
    """A root of busybox, and of musl's loader where this machine has it; it trusts nobody."""
    root = made / "root"
    busybox_root(root)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n")
    if MUSL.exists():
        (root / "lib").mkdir()
        shutil.copy(MUSL, root / "lib" / MUSL.name)
    return layer_of_tree(root)


def curl_layer() -> Layer:
    """This machine's curl with its libraries and their loader, so that it runs in an image of any libc."""
    curl = Path(shutil.which("curl") or pytest.skip("needs curl"))
    said = subprocess.run(["ldd", curl], capture_output=True, text=True, check=True).stdout
    found = [Path(word) for word in said.split() if word.startswith("/")]
    loader = next(path for path in found if path.name.startswith("ld-"))
    libraries = {f"opt/curl/{path.name}": path.read_bytes() for path in found if path != loader}
    own = {"opt/curl/curl": curl.read_bytes(), "opt/curl/loader": loader.read_bytes()}
    return layer_of({**libraries, **own, "usr/bin/curl": _CURL.encode()})


def wheels() -> Layer:
    """The clients that have a list of authorities of their own, certifi's, as their wheels have them."""
    found = [one for name in (*_WHEELS, *_WHEELS_OF_HTTPX) for one in files_of(name) or ()]
    modules = [one for one in found if one.suffix in (".py", ".pem") and ".." not in one.parts]
    return layer_of({f"opt/wheels/{one}": one.read_binary() for one in modules})


def trusting(site: TlsSite) -> Layer:
    """The list of authorities, as `update-ca-certificates` makes it in an image with one of its own."""
    return layer_of({"etc/ssl/certs/ca-certificates.crt": site.trust.read_bytes()})


@pytest.fixture(scope="module", params=KINDS)
def started(request: pytest.FixtureRequest, bay: Lab) -> Generator[Box]:
    with bay.box(POLICY, image=f"{request.param}:1", secrets=GIVEN) as box:
        yield box


@pytest.fixture(scope="module")
def debian_box(bay: Lab) -> Generator[Box]:
    with bay.box(POLICY, image="debian:1", secrets=GIVEN) as box:
        yield box


@pytest.fixture
def box(started: Box, site: TlsSite, own_site: TlsSite) -> Box:
    """A sandbox of each image; nothing has come to the sites yet."""
    site.came.clear()
    own_site.came.clear()
    return started


@pytest.fixture
def with_python(debian_box: Box, site: TlsSite, own_site: TlsSite) -> Box:
    """A sandbox of the image that has a Python, likewise."""
    site.came.clear()
    own_site.came.clear()
    return debian_box


def said(box: Box, command: str, user: str = "ship") -> str:
    done = box.run("sh", "-c", command, user=user)
    assert done["exit_code"] == 0, done
    return done["stdout"]


def cell(box: Box, code: str) -> str:
    """What a cell of the default kernel prints."""
    done = box.lab.ask("POST", box.path("/python/exec"), json={"code": code, "timeout": 60})
    assert done["success"], done
    return done["output"].strip()


def keys_of(site: TlsSite) -> list[str]:
    return site.values("authorization")


def client(box: Box, script: str, *, ok: bool = True) -> str:
    """What a script of the image's Python prints that has the wheels; what it complains of when it fails."""
    done = box.run("env", "PYTHONPATH=/opt/wheels", "python3", "-c", script)
    assert (done["exit_code"] == 0) == ok, done
    return done["stdout"] if ok else done["stderr"]


def test_a_command_in_an_image_has_its_secret_in_a_variable_and_in_a_file(box: Box) -> None:
    assert said(box, f'printf "%s " "$TOKEN"; cat {FILE}') == f"{TOKEN} {TOKEN}"
    assert said(box, f"stat -c '%a %U %s' {FILE}") == f"400 ship {len(TOKEN)}\n"
    assert said(box, "grep ' /run/secrets ' /proc/mounts").split()[0] == "tmpfs"
    assert "Permission denied" in box.run("cat", FILE, user="www-data")["stderr"]
    assert KEY not in said(box, "env")


def test_a_cell_and_a_service_in_an_image_have_them_as_well(box: Box) -> None:
    backwards = TOKEN[::-1]  # as the history has what cells print, and a later test looks for values in it
    code = f"import os; print(os.environ['TOKEN'][::-1], open('{FILE}').read()[::-1])"
    assert cell(box, code) == f"{backwards} {backwards}"
    # Each opens the fifo, whoever comes first, and waits for the other.
    tell = f'mkfifo told; printf "%s " "$TOKEN" | cat - {FILE} > told; exec sleep 600'
    box.lab.ask("PUT", box.path("/services/teller"), json={"argv": ["sh", "-c", tell]})
    assert said(box, "mkfifo told; cat told").endswith(f"{TOKEN} {TOKEN}")
    box.lab.ask("DELETE", box.path("/services/teller"))


def test_curl_in_an_image_uses_a_key_that_it_never_sees(box: Box, site: TlsSite) -> None:
    assert said(box, f"curl -sS --max-time 15 https://{API}/path") == HELLO
    assert (site.came[0][0], keys_of(site)) == ("GET /path HTTP/1.1", [f"Bearer {KEY}"])
    assert site.values("x-key") == [KEY]


def test_a_cell_in_an_image_reaches_the_site_with_the_key(box: Box, site: TlsSite) -> None:
    code = f"import urllib.request as r; print(r.urlopen('https://{API}/cell').read().decode())"
    assert cell(box, code) == HELLO.strip()
    assert keys_of(site) == [f"Bearer {KEY}"]


def test_what_an_image_trusts_itself_it_trusts_beside_the_broker(with_python: Box, own_site: TlsSite) -> None:
    script = (
        "import urllib.request as r\n"
        f"for name in ('{API}', '{OWN}'): print(r.urlopen(f'https://{{name}}/').read().decode(), end='')"
    )
    assert with_python.python(script) == 2 * HELLO
    assert said(with_python, f"curl -sS --max-time 15 https://{OWN}/") == HELLO
    assert (len(own_site.came), keys_of(own_site)) == (2, [])


def test_an_image_that_trusts_nobody_is_given_no_authority_of_another_image(bay: Lab) -> None:
    with bay.box(POLICY, image="busybox:1") as box:
        refused = box.run("curl", "-sS", "--max-time", "15", f"https://{OWN}/")
        assert (refused["exit_code"], "certificate" in refused["stderr"]) == (60, True), refused
        assert said(box, f"curl -sS --max-time 15 https://{API}/") == HELLO


def test_requests_trusts_the_broker_by_its_variable_and_not_by_its_own_list(
    with_python: Box, site: TlsSite
) -> None:
    begin = f"import requests; s = requests.Session(); url = 'https://{API}/requests'; "
    assert client(with_python, f"{begin}print(s.get(url, timeout=15).text, end='')") == HELLO
    assert keys_of(site) == [f"Bearer {KEY}"]
    alone = f"{begin}s.trust_env = False; s.get(url, timeout=15)"
    assert "CERTIFICATE_VERIFY_FAILED" in client(with_python, alone, ok=False)
    assert len(site.came) == 1


def test_httpx_trusts_the_broker_by_its_variable_and_not_by_its_own_list(
    with_python: Box, site: TlsSite
) -> None:
    begin = f"import httpx; url = 'https://{API}/httpx'; "
    assert client(with_python, f"{begin}print(httpx.get(url, timeout=15).text, end='')") == HELLO
    assert keys_of(site) == [f"Bearer {KEY}"]
    alone = f"{begin}httpx.get(url, timeout=15, trust_env=False)"
    assert "CERTIFICATE_VERIFY_FAILED" in client(with_python, alone, ok=False)
    assert len(site.came) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_user_of_an_image_has_the_file_and_the_trust(bay: Lab, site: TlsSite, kind: str) -> None:
    with bay.box(POLICY, image=f"{kind}:1", profile="own-user", secrets=GIVEN) as box:
        site.came.clear()
        command = f"id -un; cat {FILE}; stat -c ' %a %U' {FILE}; curl -sS --max-time 15 https://{API}/"
        assert said(box, command, user="www-data") == f"www-data\n{TOKEN} 400 www-data\n{HELLO}"
        assert keys_of(site) == [f"Bearer {KEY}"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_session_of_an_image_has_the_file_and_the_trust_again(
    bay: Lab, site: TlsSite, kind: str
) -> None:
    with bay.box(POLICY, image=f"{kind}:1", secrets=GIVEN) as box:
        first = said(box, "cat /dev/shm/bay-ca.pem")
        box.act("stop")
        box.act("start")
        site.came.clear()
        assert said(box, f"cat {FILE}; curl -sS --max-time 15 https://{API}/") == f"{TOKEN}{HELLO}"
        assert keys_of(site) == [f"Bearer {KEY}"]
        assert said(box, "cat /dev/shm/bay-ca.pem") != first


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_of_an_image_and_no_copy_of_a_sandbox_has_a_value(bay: Lab, kind: str) -> None:
    with bay.box(POLICY, image=f"{kind}:1", secrets=GIVEN) as box:
        said(box, f"cat {FILE}; curl -sS --max-time 15 https://{API}/")
        bay.ask("POST", box.path("/checkpoints"))
        values = (KEY.encode(), TOKEN.encode())
        held = [path for path in files_below(bay.root) if any(one in path.read_bytes() for one in values)]
        assert held == []
    assert [one for one in (KEY, TOKEN) if one in bay.log()] == []


def files_below(root: Path) -> Generator[Path]:
    """Regular files, but for those of the unpacked Debian, which were there before a sandbox was."""
    for place, directories, names in os.walk(root):
        if Path(place).name == "layers":
            directories.clear()
        yield from (path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink())
