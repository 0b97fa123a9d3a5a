"""Embedding catalogs: a whole survey's embeddings as a sky store."""

from omnisky.catalog.embedding import embed_store

__all__ = ["embed_store"]
