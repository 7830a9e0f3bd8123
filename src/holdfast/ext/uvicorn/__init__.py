"""Holdfast for uvicorn: a server that ends without losing a request.

    python -m holdfast.ext.uvicorn shop.main:app --port 8000

    from holdfast.ext.uvicorn import serve
    sys.exit(serve(app, port=8000))

What uvicorn does not do by itself: tell the world first and stop afterwards (lame duck), await what it cancels, bound the
end, exit with 0, hand on the peer's certificate, and take a renewed certificate without a restart.
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if find_spec("uvicorn") is None:
    raise MissingExtra("holdfast.ext.uvicorn needs uvicorn: pip install 'holdfast[uvicorn]'")

from .server import Server, serve
from .tls import Tls, TlsContext

__all__ = ["Server", "Tls", "TlsContext", "serve"]
