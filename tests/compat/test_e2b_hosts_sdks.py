"""The public clients of E2B, unmodified, reach sandboxes by their hosts behind TLS."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from client_programs import ClientHost, client_host
from tls_front import TlsFront, tls_front

pytestmark = pytest.mark.clients

DOMAIN = "bay.example.test"


@dataclass(frozen=True, slots=True)
class Site:
    """A Bay, and what is in front of it."""

    host: ClientHost
    front: TlsFront


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tls_front(DOMAIN) as front, client_host(BAY_PUBLIC_URL=front.public_url) as host:
        front.target = int(host.url.rpartition(":")[2])
        yield Site(host, front)


def test_e2b_domain_alone_leads_a_python_program_to_hosts_behind_tls(site: Site) -> None:
    proxy = f"http://127.0.0.1:{site.front.proxy_port}"
    trust = {"SSL_CERT_FILE": str(site.front.trust)}
    here = {"E2B_API_KEY": site.host.key, "E2B_DOMAIN": f"{DOMAIN}:{site.front.port}", "HTTPS_PROXY": proxy}
    assert site.host.run("e2b_hosts.py", **here, **trust).splitlines()[-1] == "done"


def test_e2b_domain_alone_leads_a_javascript_program_to_hosts_behind_tls(site: Site) -> None:
    trust = {"NODE_EXTRA_CA_CERTS": str(site.front.trust)}
    here = {"E2B_API_KEY": site.host.key, "E2B_DOMAIN": f"{DOMAIN}:{site.front.port}"}
    assert site.host.run("e2b_hosts.mjs", **here, **trust).splitlines()[-1] == "done"
