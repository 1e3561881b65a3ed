"""Notebooks at profile smoke in _build/smoke, for nbval to run every cell of them."""

from pathlib import Path

import nbformat

from compactnets import paths
from compactnets.book import notebook


def write_all() -> list[Path]:
    """Writes one <slug>.ipynb a notebook, without outputs; drops those whose notebook is gone."""
    folder = paths.build_dir() / "smoke"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for slug, source in notebook.every().items():
        path = folder / f"{slug}.ipynb"
        with paths.write_atomically(path) as temporary:
            nbformat.write(source.with_profile("smoke"), temporary)
        written.append(path)
    for old in set(folder.glob("*.ipynb")) - set(written):
        old.unlink()
    return written
