"""Limits of the DNS forwarder for one sandbox: rates, sizes and timeouts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsLimits:
    """The bounds of one forwarder; those of a sandbox count for each by itself. Times are seconds."""

    questions_per_s: float = 100
    questions_at_once: float = 400
    held_cost: float = 0.1
    """The cost of a cached answer, in questions: it takes Bay some microseconds and no upstream query."""
    refusals_at_once: float = 200
    """Questions over the rate that are answered REFUSED at `questions_per_s`; further ones are dropped."""
    pause_s: float = 0.05
    """How long a sandbox's socket is left unread once its questions are dropped.

    A drop in the kernel costs less than one in Bay.
    """
    received_per_question: int = 1024
    """Bytes from upstream that cost as much as one question.

    A long answer is then no cheap way to keep Bay busy.
    """

    letters_per_s: float = 64
    letters_at_once: float = 8192
    """Bytes that names under wildcard rules may carry out; see `dns_budget`."""

    in_flight: int = 64
    connections: int = 16
    datagrams: int = 32
    """How many are read before others have their turn."""
    query_bytes: int = 4096
    """No longer question is read.

    RFC 1035 allows 65,535 over TCP, where one name and its options need no 400.
    """
    idle_s: float = 10
    """How long a connection may be silent, or take for one question or to accept an answer."""

    addresses_per_name: int = 256
    addresses: int = 4096
    names_per_address: int = 16
    held_answers: int = 2048
    held_bytes: int = 512 * 1024
    refused_names: int = 200

    ttl_min_s: int = 5
    ttl_max_s: int = 3600
    failure_s: int = 1
    """How long a failure to resolve is cached (RFC 9520, section 3.2: at least a second)."""
    grace_s: int = 30
    """An address stays open for so much longer than its TTL.

    A program connects after it has resolved, not while.
    """

    answer_s: float = 5
    tries_s: tuple[float, ...] = (1.0, 2.0)
    """How long each resolver is waited for, in the first round and in the second."""
    down_s: float = 10
    """How long a resolver that did not answer is asked last."""
    exchanges: int = 512
    """Questions to resolvers at one time, of all sandboxes together: each has a socket."""
    lies: int = 32
    """Datagrams on one socket that are no answer to its question, before it is given up."""
    aliases: int = 8
    records: int = 512
    """Records of one upstream answer that are looked at."""
