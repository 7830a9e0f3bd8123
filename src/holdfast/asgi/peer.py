"""Who is at the other end of a TLS connection, as its certificate proved it.

    peer = peer_of(scope)                       # None: no certificate was asked for
    if peer is None or peer.spiffe_id != "spiffe://shop/orders": ...

Servers do not tell applications about certificates (ASGI's TLS extension is a proposal that none of them implements);
`holdfast.ext.uvicorn` puts the identity into `scope["state"]`. Only the handshake proves anything: a header that names a
certificate proves nothing unless the proxy that wrote it is the socket's peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .interface import Scope

__all__ = ["PEER_KEY", "PeerIdentity", "identity_from", "peer_of"]

PEER_KEY = "holdfast_peer"
"""The name of the identity in `scope["state"]`."""

_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}
_SPECIAL = str.maketrans({character: f"\\{character}" for character in ',+"\\<>;='})
_TRUST_DOMAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a verified certificate says of its owner.

    Attributes:
        subject: its distinguished name, most general part first (`O=Shop,CN=orders`), special characters escaped.
        common_name: the last common name in it, or None. Kept for logs: names belong into the alternative names.
        dns_names, uris, addresses, emails: its subject alternative names.
        spiffe_id: its one URI, if that is a SPIFFE id (`spiffe://trust-domain/path`), as the X.509-SVID standard wants; or None.
        serial_number: hexadecimal, unique for its issuer.
        expires_at: when it stops being valid, as the certificate says (`Jun  1 12:00:00 2027 GMT`).
    """

    subject: str
    common_name: str | None
    dns_names: tuple[str, ...]
    uris: tuple[str, ...]
    addresses: tuple[str, ...]
    emails: tuple[str, ...]
    spiffe_id: str | None
    serial_number: str
    expires_at: str


def identity_from(certificate: Mapping[str, Any]) -> PeerIdentity:
    """The identity in what `ssl.SSLSocket.getpeercert()` gives for a verified certificate; pure."""
    parts = [(str(name), str(value)) for group in certificate.get("subject", ()) for name, value in group]
    names: dict[str, list[str]] = {}
    for kind, value in certificate.get("subjectAltName", ()):
        names.setdefault(str(kind), []).append(str(value))
    uris = tuple(names.get("URI", ()))
    common = [value for name, value in parts if name == "commonName"]
    return PeerIdentity(
        subject=",".join(f"{_SHORT.get(name, name)}={value.translate(_SPECIAL)}" for name, value in parts),
        common_name=common[-1] if common else None,
        dns_names=tuple(names.get("DNS", ())),
        uris=uris,
        addresses=tuple(names.get("IP Address", ())),
        emails=tuple(names.get("email", ())),
        spiffe_id=uris[0] if len(uris) == 1 and _is_spiffe_id(uris[0]) else None,
        serial_number=str(certificate.get("serialNumber", "")),
        expires_at=str(certificate.get("notAfter", "")),
    )


def peer_of(scope: Scope) -> PeerIdentity | None:
    """The identity of the other end of the connection; None where no certificate was verified."""
    peer = (scope.get("state") or {}).get(PEER_KEY)
    return peer if isinstance(peer, PeerIdentity) else None


def _is_spiffe_id(uri: str) -> bool:
    # SPIFFE-ID 2: the scheme, a trust domain of its own alphabet, no user, port, query or fragment; 2048 bytes at most.
    if not uri.startswith("spiffe://") or len(uri) > 2048 or "?" in uri or "#" in uri:
        return False
    domain = urlsplit(uri).netloc
    return 0 < len(domain) <= 255 and _TRUST_DOMAIN.issuperset(domain)
