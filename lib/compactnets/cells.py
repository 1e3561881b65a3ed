"""Is this code running in a notebook, and in which of its cells?"""

import sys
from typing import Any


def in_notebook() -> bool:
    """Does this code run under IPython (JupyterLab, papermill, nbval, an IPython terminal)?"""
    return _shell() is not None


def current() -> int:
    """How many cells have been started, this one included; 0 in a script.

    Two calls with equal numbers are in one run of one cell.
    """
    shell = _shell()
    return shell.execution_count if shell is not None else 0


def _shell() -> Any:
    ipython = sys.modules.get("IPython")  # not imported: then no notebook has started us
    return ipython.get_ipython() if ipython is not None else None
