"""Whom a drill would harm, found out before it does anything: the host of a URL goes past `drills.guard`."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["check_consent", "host_of", "is_address"]


def is_address(app: str | None) -> bool:
    """Whether what `--app` says is the address of a service."""
    return app is not None and app.startswith(("http://", "https://"))


def host_of(url: str) -> str | None:
    """The host that the URL of a database or the address of a service leads to, without its port; None where that is a file.

    Raises:
        ConfigurationError: it cannot be read, or leads to no single host. The text shows none of it: it may hold a password.
    """
    from ..drills.given import read_database, read_service

    return read_service(url).host if is_address(url) else read_database(url).host


def check_consent(url: str, may_break: Collection[str]) -> None:
    """Whether `url` leads to this machine only, or to a host that the user named as theirs to break.

    Args:
        url: of a database or a service.
        may_break: the hosts named by `--may-break`.

    Raises:
        ConfigurationError: the host is neither; the text says what to add. Or it cannot be told.
    """
    from ..drills.guard import check_target

    host = host_of(url)
    if host is not None:
        check_target(host, may_break)
