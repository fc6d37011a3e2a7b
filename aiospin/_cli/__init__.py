"""The subcommands of ``python -m aiospin``, one module or package each."""

from __future__ import annotations
