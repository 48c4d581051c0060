"""What `help` and tab completion show of a method: every option, with its default and its meaning.

A constructor names its own options and hands the others on; its class documents its own. What is
inherited is added when the class is made, from the signatures and docstrings of its bases.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from camlib.options import hints

_ARGUMENTS = re.compile(r"^Args:\n((?: .*\n|\n(?= ))*)\n*", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)
_BEFORE = re.compile(r"^(?:Raises|Returns|Example|Attributes):$", re.MULTILINE)


def describe(kind: Any) -> None:
    """Complete the signature and the docstring of the class `kind`, whose bases are complete."""
    if "__init__" in vars(kind):
        kind.__init__.__signature__ = _signature(kind)
    if kind.__doc__:
        kind.__doc__ = _documented(kind)


def _signature(kind: Any) -> inspect.Signature:
    """The constructor's signature with the options that it hands on, where they have names."""
    init = kind.__init__
    signature = inspect.signature(init)
    *own, last = signature.parameters.values()
    if last.kind is not last.VAR_KEYWORD:
        return signature
    known = get_args(hints(init).get(last.name))
    if not known:
        return signature
    names = known[0].__annotations__
    base = inspect.signature(super(kind, kind).__init__).parameters
    taken = {each.name for each in own}
    handed = [each for name, each in base.items() if name in names and name not in taken]
    return signature.replace(parameters=[*own, *handed])


def _documented(kind: Any) -> str:
    """The docstring of `kind` with an entry for every parameter."""
    text = inspect.cleandoc(kind.__doc__) + "\n"
    entries: dict[str, str] = {}
    for each in kind.__mro__:
        page = text if each is kind else inspect.cleandoc(vars(each).get("__doc__") or "") + "\n"
        arguments = _ARGUMENTS.search(page)
        if arguments:
            entries = dict(_ENTRY.findall(arguments[1])) | entries
    names = [*inspect.signature(kind.__init__).parameters][1:]
    listed = [f"    {name}: {entries[name]}\n" for name in names if name in entries]
    if not listed:
        return text.rstrip()
    section = "Args:\n" + "".join(listed)
    if _ARGUMENTS.search(text):
        return _ARGUMENTS.sub(lambda _: section + "\n", text, count=1).rstrip()
    after = _BEFORE.search(text)
    place = after.start() if after else len(text)
    head = text[:place].rstrip()
    return f"{head}\n\n{section}\n{text[place:]}".rstrip()
