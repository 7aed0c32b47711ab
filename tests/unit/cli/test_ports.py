"""Ports: the same again, or other ones; never one that somebody has."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cli.errors import UsageMistake
from cli.stack.ports import HOST, PortClaims, Ports


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    """Claims that are given back."""
    made = PortClaims()
    yield made
    made.release()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_that_was_asked_for_is_refused(claims: PortClaims, taken: int) -> None:
    """In one line that names the way out."""
    with pytest.raises(UsageMistake, match=f"port {taken} is taken"):
        claims.choose(api=taken, remembered=None)


def test_a_remembered_port_that_was_taken_since_is_left(claims: PortClaims, taken: int) -> None:
    """The stack starts all the same."""
    ports = claims.choose(api=None, remembered=Ports(api=taken, dashboard=taken, serving=taken))
    assert taken not in (ports.api, ports.dashboard, ports.serving)
    assert len({ports.api, ports.dashboard, ports.serving}) == 3


def test_two_stacks_choosing_at_once_get_different_ports(claims: PortClaims) -> None:
    """Although neither listens yet; and the ports are free again afterwards."""
    other = PortClaims()
    first = claims.choose(api=None, remembered=None)
    second = other.choose(api=None, remembered=first)
    assert {first.api, first.dashboard, first.serving}.isdisjoint(
        {second.api, second.dashboard, second.serving}
    )
    claims.release()
    other.release()
    assert other.choose(api=None, remembered=first) == first
    other.release()


def test_ports_are_outside_the_range_of_outgoing_connections(claims: PortClaims, taken: int) -> None:
    """Else one of ours could be taken while its child restarts."""
    ports = claims.choose(api=None, remembered=Ports(api=taken, dashboard=taken, serving=taken))
    assert ports.serving < 32_768
