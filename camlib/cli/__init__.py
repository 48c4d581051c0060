"""The `camlib` command.

Whatever goes wrong is one line that says what was given and what to do. Files appear whole or not
at all, and one bad image does not keep the others from being explained.
"""

from camlib.cli.commands import main

__all__ = ["main"]
