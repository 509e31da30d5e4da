"""What a sandbox is told: names its policy knows, resolved, opened and pinned."""

import asyncio
from ipaddress import IPv4Network

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from dns_harness import KEY, Opened, addresses, allow, data, deny, is_refused, plan, receive, world
from dns_harness import anyio_backend as anyio_backend

from bay.errors import DriverUnavailable
from bay.models import NetworkRule

pytestmark = [pytest.mark.anyio, pytest.mark.pure]
PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
PUBLIC6 = "2606:2800:220:1:248:1893:25c8:1946"


async def test_a_name_is_resolved_and_opened_before_it_is_told() -> None:
    async with world(plan("allowlist", allow("www.example.com"))) as w:
        w.upstream.zone["www.example.com", "A"] = [PUBLIC, OTHER]
        w.opened.gate = asyncio.Event()
        query = dns.message.make_query("www.example.com", "A")
        with w.client() as udp:
            udp.send(query.to_wire())
            async with asyncio.timeout(5):
                await w.opened.begun.wait()
            with pytest.raises(BlockingIOError):
                udp.recv(512)
            w.opened.gate.set()
            answer = dns.message.from_wire(await receive(udp))
        assert query.is_response(answer)
        assert sorted(data(answer)) == [PUBLIC, OTHER]
        assert w.opened.calls == [("www.example.com", addresses(*data(answer)), 90)]
        assert w.forwarder.counts(KEY) == {0: (1, 0)}
        assert w.forwarder.refused(KEY) == ()
        assert w.counted("bay_network_names_total", verdict="allowed") == 1


async def test_a_name_without_a_rule_is_refused_and_leaves_nobody() -> None:
    async with world(plan("allowlist", allow("www.example.com"))) as w:
        assert is_refused(await w.ask("evil.example.net"))
        assert is_refused(await w.ask("evil.example.net"))
        assert w.refused() == [("evil.example.net", "A", "policy", None)]
        assert w.forwarder.refused(KEY)[0].count == 2
        assert w.forwarder.counts(KEY) == {None: (0, 2)}
        assert w.upstream.asked == []
        assert w.counted("bay_network_names_total", verdict="refused") == 2
        assert w.counted("bay_network_names_unanswered_total", reason="policy") == 2


async def test_a_refusal_says_why_to_who_can_read_it() -> None:
    async with world(plan("allowlist")) as w:
        answer = await w.ask("a.example")
        assert "EDE 15 (Blocked): the sandbox's network policy does not allow this name" in str(answer)
        plain = await w.ask_message(dns.message.make_query("a.example", "A"))
        assert plain.opt is None
        assert is_refused(plain)


async def test_a_denied_name_is_refused_by_its_rule() -> None:
    async with world(plan("open", deny("*.ads.example"))) as w:
        assert is_refused(await w.ask("x.ads.example"))
        assert w.refused() == [("x.ads.example", "A", "policy", 0)]
        assert w.forwarder.counts(KEY) == {0: (0, 1)}


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("a.example.com", True),
        ("a.b.c.example.com", True),
        ("example.com", False),
        ("badexample.com", False),
        ("a.example.com.evil.net", False),
    ],
)
async def test_a_wildcard_stands_for_labels_below(name: str, answered: bool) -> None:
    async with world(plan("allowlist", allow("*.example.com"))) as w:
        w.upstream.zone[name, "A"] = [PUBLIC]
        assert (data(await w.ask(name)) == [PUBLIC]) is answered


async def test_an_international_name_is_known_by_its_ascii_form() -> None:
    async with world(plan("allowlist", allow("bücher.example"))) as w:
        w.upstream.zone["xn--bcher-kva.example", "A"] = [PUBLIC]
        assert data(await w.ask("xn--bcher-kva.example")) == [PUBLIC]
        raw = dns.message.make_query(dns.name.Name([b"b\xc3\xbccher", b"example", b""]), "A")
        assert is_refused(await w.ask_message(raw))


async def test_the_case_of_a_question_comes_back_and_does_not_leave() -> None:
    async with world(plan("allowlist", allow("www.example.com"))) as w:
        w.upstream.zone["www.example.com", "A"] = [PUBLIC]
        for name in ("wWw.eXample.COM", "WWW.example.com"):
            answer = await w.ask(name)
            assert answer.question[0].name.to_text(omit_final_dot=True) == name
            assert answer.answer[0].name.to_text(omit_final_dot=True) == name
            assert data(answer) == [PUBLIC]
        assert w.upstream.names() == ["www.example.com"]


async def test_a_name_keeps_its_addresses_for_its_ttl() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        assert (await w.ask("a.example")).answer[0].ttl == 60
        w.upstream.zone["a.example", "A"] = [OTHER]
        w.ticks.advance(25)
        again = await w.ask("a.example")
        assert (data(again), again.answer[0].ttl) == ([PUBLIC], 35)
        assert len(w.opened.calls) == 1
        w.ticks.advance(35)
        assert data(await w.ask("a.example")) == [OTHER]
        assert [call[1] for call in w.opened.calls] == [addresses(PUBLIC), addresses(OTHER)]


@pytest.mark.parametrize(("ttl", "told"), [(0, 5), (1, 5), (3600, 3600), (86400, 3600), (2**31 - 1, 3600)])
async def test_a_ttl_is_neither_too_short_nor_too_long(ttl: int, told: int) -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.ttl = ttl
        assert (await w.ask("a.example")).answer[0].ttl == told


async def test_addresses_are_remembered_after_their_ttl() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = w.upstream.zone["b.example", "A"] = [PUBLIC]
        await w.ask("a.example")
        await w.ask("b.example")
        assert w.opened.calls == [
            ("a.example", addresses(PUBLIC), 90),
            ("b.example", addresses(PUBLIC), 90),
        ]
        w.ticks.advance(4000)
        assert w.forwarder.names_of(KEY) == {addresses(PUBLIC)[0]: {"a.example", "b.example"}}
        await w.ask("a.example")
        assert w.opened.names() == ["a.example", "b.example", "a.example"]


async def test_equal_questions_at_one_time_are_asked_once() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.gate = asyncio.Event()
        asking = [asyncio.ensure_future(w.ask(name)) for name in ("a.example", "A.example", "a.EXAMPLE")]
        async with asyncio.timeout(5):
            await w.upstream.heard.wait()
        w.upstream.gate.set()
        assert [data(one) for one in await asyncio.gather(*asking)] == [[PUBLIC]] * 3
        assert len(w.upstream.asked) == 1
        assert len(w.opened.calls) == 1


async def test_aliases_are_followed_under_the_rule_of_the_name() -> None:
    async with world(plan("allowlist", allow("www.example.com"))) as w:
        w.upstream.zone["www.example.com", "CNAME"] = ["edge.cdn.example.net."]
        w.upstream.zone["edge.cdn.example.net", "CNAME"] = ["e7.cdn.example.net."]
        w.upstream.zone["e7.cdn.example.net", "A"] = [PUBLIC]
        answer = await w.ask("www.example.com")
        assert data(answer, "CNAME") == ["edge.cdn.example.net.", "e7.cdn.example.net."]
        assert [rrset.name.to_text() for rrset in answer.answer] == [
            "www.example.com.",
            "edge.cdn.example.net.",
            "e7.cdn.example.net.",
        ]
        assert data(answer) == [PUBLIC]
        assert w.opened.names() == ["www.example.com"]
        assert is_refused(await w.ask("e7.cdn.example.net"))


async def test_aliases_that_the_resolver_leaves_open_are_asked_for() -> None:
    async with world() as w:
        w.upstream.chases = False
        w.upstream.zone["a.example", "CNAME"] = ["b.example."]
        w.upstream.zone["b.example", "CNAME"] = ["c.example."]
        w.upstream.zone["c.example", "A"] = [PUBLIC]
        assert data(await w.ask("a.example")) == [PUBLIC]
        assert w.upstream.names() == ["a.example", "b.example", "c.example"]


async def test_eight_aliases_are_followed_and_not_nine() -> None:
    async with world() as w:
        for number in range(9):
            w.upstream.zone[f"n{number}.example", "CNAME"] = [f"n{number + 1}.example."]
        w.upstream.zone["n9.example", "A"] = [PUBLIC]
        assert data(await w.ask("n1.example")) == [PUBLIC]
        assert (await w.ask("n0.example")).rcode() == dns.rcode.SERVFAIL
        assert w.refused() == [("n0.example", "A", "loop", None)]


@pytest.mark.parametrize("chases", [True, False])
async def test_aliases_in_a_circle_have_no_answer(chases: bool) -> None:
    async with world() as w:
        w.upstream.chases = chases
        w.upstream.zone["a.example", "CNAME"] = ["b.example."]
        w.upstream.zone["b.example", "CNAME"] = ["A.example."]
        w.upstream.zone["self.example", "CNAME"] = ["self.example."]
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert (await w.ask("self.example")).rcode() == dns.rcode.SERVFAIL
        assert w.reasons() == ["loop", "loop"]
        assert w.opened.calls == []


async def test_a_name_that_does_not_exist_does_not() -> None:
    async with world() as w:
        answer = await w.ask("nothing.example")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NXDOMAIN, [])
        await w.ask("nothing.example")
        assert len(w.upstream.asked) == 1
        assert w.forwarder.refused(KEY) == ()


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "192.168.1.1", "224.0.0.1", "0.1.2.3"],
)
async def test_a_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    async with world() as w:
        w.upstream.zone["rebind.example", "A"] = [address]
        assert is_refused(await w.ask("rebind.example"))
        assert w.refused() == [("rebind.example", "A", "private_answer", None)]
        assert w.opened.calls == []


@pytest.mark.parametrize(
    "address",
    [
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:93.184.216.34",
        "::10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "fd00::1",
    ],
)
async def test_an_address_that_hides_a_private_one_is_refused(address: str) -> None:
    async with world() as w:
        w.upstream.zone["rebind.example", "AAAA"] = [address]
        assert is_refused(await w.ask("rebind.example", "AAAA"))
        assert w.reasons() == ["private_answer"]


async def test_private_addresses_among_public_ones_are_left_out() -> None:
    async with world() as w:
        w.upstream.zone["mixed.example", "A"] = ["10.0.0.1", PUBLIC, "169.254.169.254"]
        assert data(await w.ask("mixed.example")) == [PUBLIC]
        assert w.opened.calls[0][1] == addresses(PUBLIC)


async def test_a_name_that_flips_between_public_and_private_gets_no_private_one() -> None:
    async with world() as w:
        w.upstream.ttl = 0
        told: set[str] = set()
        for turn in range(20):
            w.upstream.zone["flip.example", "A"] = [PUBLIC if turn % 2 else "192.168.0.1"]
            told.update(data(await w.ask("flip.example")))
            w.ticks.advance(5)
        assert told == {PUBLIC}
        assert {one for _, opened, _ in w.opened.calls for one in opened} == set(addresses(PUBLIC))


async def test_a_private_network_that_a_rule_allows_is_told_and_not_opened() -> None:
    lan = IPv4Network("10.1.0.0/16")
    holds = plan("open", NetworkRule(action="allow", cidr="10.1.0.0/16"), private=[lan])
    async with world(holds) as w:
        w.upstream.zone["db.example", "A"] = ["10.1.2.3", "10.2.0.1", PUBLIC]
        assert sorted(data(await w.ask("db.example"))) == ["10.1.2.3", PUBLIC]
        assert w.opened.calls[0][1] == addresses(PUBLIC)
        w.set_policy("open")
        assert data(await w.ask("db.example")) == [PUBLIC]


async def test_of_a_thousand_addresses_some_are_told_and_only_those_opened() -> None:
    async with world() as w:
        w.upstream.zone["many.example", "A"] = [f"93.184.{n // 250}.{n % 250}" for n in range(1000)]
        cut = await w.ask("many.example")
        assert cut.flags & dns.flags.TC
        assert 0 < len(data(cut)) < 100
        assert len(cut.to_wire()) <= 1232
        assert len(w.opened.calls[0][1]) == 256


async def test_records_without_addresses_are_given_for_allowed_names_only() -> None:
    async with world(plan("allowlist", allow("example.com"))) as w:
        w.upstream.zone |= {
            ("example.com", "TXT"): ['"v=spf1 -all" "more"'],
            ("example.com", "MX"): ["10 mail.example.com."],
            ("example.com", "SRV"): ["1 2 443 host.example.com."],
            ("example.com", "CAA"): ['0 issue "ca.example"'],
            ("example.com", "SOA"): ["ns.example.com. root.example.com. 1 2 3 4 5"],
            ("example.com", "NS"): ["ns.example.com."],
            ("other.example", "TXT"): ['"secret"'],
        }
        for kind in ("TXT", "MX", "SRV", "CAA", "SOA", "NS"):
            answer = await w.ask("example.com", kind)
            assert data(answer, kind) == w.upstream.zone["example.com", kind]
            assert (answer.authority, answer.additional) == ([], [])
        assert is_refused(await w.ask("other.example", "TXT"))
        assert w.opened.calls == []


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB"])
async def test_hints_of_addresses_are_not_given(kind: str) -> None:
    async with world() as w:
        answer = await w.ask("a.example", kind)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert w.upstream.asked == []


@pytest.mark.parametrize("kind", ["ANY", "AXFR", "IXFR", "NULL", "DNSKEY", "TYPE65280", "TYPE0"])
async def test_other_types_are_refused(kind: str) -> None:
    async with world() as w:
        query = dns.message.make_query("a.example", "A")
        query.question[0].rdtype = dns.rdatatype.from_text(kind)
        answer = dns.message.from_wire(await w.send(query.to_wire()), ignore_trailing=True)
        assert is_refused(answer)
        assert w.reasons() == ["type"]
        assert w.upstream.asked == []


async def test_reverse_names_of_what_is_not_reached_are_refused() -> None:
    async with world() as w:
        w.upstream.zone["34.216.184.93.in-addr.arpa", "PTR"] = ["www.example."]
        assert data(await w.ask("34.216.184.93.in-addr.arpa", "PTR"), "PTR") == ["www.example."]
        for name in ("1.0.0.10.in-addr.arpa", "10.in-addr.arpa", "in-addr.arpa", "1.2.3.4.5.in-addr.arpa"):
            assert is_refused(await w.ask(name, "PTR"))
        assert is_refused(await w.ask(".".join("1" + "0" * 31) + ".ip6.arpa", "PTR"))
        assert is_refused(await w.ask("10.in-addr.arpa", "SOA"))
        assert len(w.upstream.asked) == 1


async def test_localhost_is_the_sandbox_itself() -> None:
    async with world(plan("allowlist")) as w:
        assert data(await w.ask("localhost")) == ["127.0.0.1"]
        assert data(await w.ask("app.localhost", "AAAA"), "AAAA") == ["::1"]
        assert data(await w.ask("localhost", "TXT"), "TXT") == []
        assert w.upstream.asked == []


async def test_without_ipv6_a_name_has_no_such_addresses() -> None:
    async with world(ipv6=False) as w:
        w.upstream.zone["a.example", "AAAA"] = [PUBLIC6]
        answer = await w.ask("a.example", "AAAA")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert w.upstream.asked == []


async def test_with_ipv6_both_kinds_of_addresses_are_opened() -> None:
    async with world() as w:
        w.upstream.zone |= {("a.example", "AAAA"): [PUBLIC6], ("a.example", "A"): [PUBLIC]}
        assert data(await w.ask("a.example", "AAAA"), "AAAA") == [PUBLIC6]
        assert data(await w.ask("a.example")) == [PUBLIC]
        assert [call[1] for call in w.opened.calls] == [addresses(PUBLIC6), addresses(PUBLIC)]


async def test_a_policy_that_forbids_a_name_ends_its_pin() -> None:
    async with world(plan("allowlist", allow("a.example"), allow("b.example"))) as w:
        w.upstream.zone |= {("a.example", "A"): [PUBLIC], ("b.example", "A"): [OTHER]}
        await w.ask("a.example")
        await w.ask("b.example")
        w.set_policy("allowlist", allow("b.example"))
        assert is_refused(await w.ask("a.example"))
        assert w.forwarder.names_of(KEY)[addresses(PUBLIC)[0]] == {"a.example"}
        assert w.forwarder.counts(KEY) == {None: (0, 1)}
        w.set_policy("allowlist", allow("a.example"), allow("b.example"))
        assert len(w.upstream.asked) == 2
        await w.ask("b.example")
        assert len(w.upstream.asked) == 2
        await w.ask("a.example")
        assert len(w.upstream.asked) == 3


async def test_a_policy_that_opens_other_services_has_its_pins_opened_again() -> None:
    async with world(plan("allowlist", allow("a.example", ports=(443,)))) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        await w.ask("a.example")
        w.ticks.advance(10)
        w.set_policy("allowlist", allow("a.example"))
        assert (await w.ask("a.example")).answer[0].ttl == 50
        assert [call[2] for call in w.opened.calls] == [90, 80]
        assert len(w.upstream.asked) == 1


async def test_a_policy_that_changes_while_a_name_is_opened_decides() -> None:
    async with world(plan("allowlist", allow("a.example"))) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.opened.gate = asyncio.Event()
        asking = asyncio.ensure_future(w.ask("a.example"))
        async with asyncio.timeout(5):
            await w.opened.begun.wait()
        w.set_policy("allowlist")
        w.opened.gate.set()
        assert is_refused(await asking)
        assert w.forwarder.names_of(KEY) == {}


async def test_addresses_that_cannot_be_opened_are_not_told() -> None:
    opened = Opened(error=DriverUnavailable("the kernel said no"))
    async with world(opened=opened) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert w.reasons() == ["upstream"]
        opened.error = None
        w.ticks.advance(1)
        assert data(await w.ask("a.example")) == [PUBLIC]


async def test_a_defect_costs_one_answer() -> None:
    opened = Opened(error=ZeroDivisionError("ours"))
    async with world(opened=opened) as w:
        w.upstream.zone |= {("a.example", "A"): [PUBLIC], ("b.example", "A"): [PUBLIC]}
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        opened.error = None
        assert data(await w.ask("b.example")) == [PUBLIC]
