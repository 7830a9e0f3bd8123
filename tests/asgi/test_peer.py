"""Who a certificate belongs to: what its fields say, and nothing that they could pretend."""

from __future__ import annotations

import pytest

from holdfast.asgi.peer import PEER_KEY, identity_from, peer_of


def certificate(*names: tuple[str, str], subject: tuple[tuple[str, str], ...] = ()) -> dict[str, object]:
    """What `getpeercert()` gives."""
    return {
        "subject": tuple((part,) for part in subject),
        "subjectAltName": names,
        "serialNumber": "0A1B",
        "notAfter": "Jun  1 12:00:00 2027 GMT",
    }


def test_every_kind_of_name_is_kept() -> None:
    """Alternative names are sorted by kind, the subject reads as one line."""
    peer = identity_from(
        certificate(
            ("DNS", "orders.shop"),
            ("DNS", "orders"),
            ("URI", "spiffe://shop/orders"),
            ("IP Address", "192.0.2.7"),
            ("email", "ops@shop"),
            subject=(("organizationName", "Shop"), ("commonName", "orders")),
        )
    )
    assert (peer.subject, peer.common_name) == ("O=Shop,CN=orders", "orders")
    assert (peer.dns_names, peer.addresses, peer.emails) == (("orders.shop", "orders"), ("192.0.2.7",), ("ops@shop",))
    assert peer.spiffe_id == "spiffe://shop/orders"
    assert (peer.serial_number, peer.expires_at) == ("0A1B", "Jun  1 12:00:00 2027 GMT")


def test_a_value_cannot_pretend_to_be_a_field() -> None:
    """Special characters of a value are escaped: `CN=admin` inside an organization's name stays there."""
    peer = identity_from(certificate(subject=(("organizationName", "Evil,CN=admin"), ("commonName", "mallory"))))
    assert peer.subject == "O=Evil\\,CN\\=admin,CN=mallory"
    assert peer.common_name == "mallory"


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://shop/orders"],
        ["spiffe://shop/orders", "spiffe://shop/admin"],
        ["spiffe://user@shop/orders"],
        ["spiffe://shop:8443/orders"],
        ["spiffe://SHOP/orders"],
        ["spiffe:///orders"],
        ["spiffe://shop/orders?x=1"],
        ["spiffe://shop/orders#x"],
        ["SPIFFE://shop/orders"],
        ["spiffe://shop/" + "x" * 2048],
    ],
)
def test_what_is_no_spiffe_id(uris: list[str]) -> None:
    """Two URIs, another scheme, a port, a user or a query make it none; the URIs themselves stay readable."""
    peer = identity_from(certificate(*(("URI", uri) for uri in uris)))
    assert peer.spiffe_id is None
    assert peer.uris == tuple(uris)


def test_the_scope_holds_it() -> None:
    """Only an identity that a server put there counts."""
    peer = identity_from(certificate())
    assert peer_of({"type": "http", "state": {PEER_KEY: peer}}) is peer
    assert peer_of({"type": "http", "state": {PEER_KEY: "CN=admin"}}) is None
    assert peer_of({"type": "http", "state": {}}) is None
    assert peer_of({"type": "http"}) is None
