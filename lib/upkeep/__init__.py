"""upkeep: cron-driven care for long-running programs on small Linux servers.

This package holds what two or more of the scripts in ``bin/`` share. Importing it puts the
packages of the checkout's own ``.venv`` on the path, so that every script finds its dependencies
whether they come from the distribution, from ``.venv`` or from an installation with pip.
"""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
OWN_PACKAGES = CHECKOUT / ".venv" / "lib" / _VERSION / "site-packages"


def _use_own_venv() -> None:
    """Append the packages of ``<checkout>/.venv``, if it was made for this Python version.

    No re-run of the interpreter: the packages are pure Python or built for the same minor version.
    """
    if sys.prefix == sys.base_prefix and os.path.isdir(OWN_PACKAGES):  # False if it may not be seen
        sys.path.insert(1, str(OWN_PACKAGES))


_use_own_venv()
