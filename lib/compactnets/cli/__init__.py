"""compactnets: the book from a terminal."""

from compactnets.cli.app import app

__all__ = ["app"]
