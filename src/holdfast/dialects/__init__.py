"""What an error means: four tables from a server's code to a failure class, and one extractor for every driver.

`classify` is all that other layers need. Needs no driver and imports none.
"""

from __future__ import annotations

from .classifier import classify, explain, table_of
from .extract import ServerError, extract
from .flavour import Flavour
from .rows import Row, Table

__all__ = ["Flavour", "Row", "ServerError", "Table", "classify", "explain", "extract", "table_of"]
