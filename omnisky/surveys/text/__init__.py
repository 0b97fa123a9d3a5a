"""How do text tables from outside get in? As batches of typed columns, bad rows reported.

CSV and ECSV, plain or gzip-compressed, of any length: only a batch of rows is held at a time.
"""

from __future__ import annotations

from omnisky.surveys.text.reading import Kind, TextHeader, text_batches, text_header

__all__ = ["Kind", "TextHeader", "text_batches", "text_header"]
