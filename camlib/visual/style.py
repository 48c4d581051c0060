"""Draw with matplotlib's defaults, whatever is in the user's matplotlibrc.

A setting such as ``image.origin: lower`` would turn every picture upside down, ``text.usetex``
would need LaTeX, and ``savefig.dpi`` would change the size of files. Only the user's fonts are
kept, after matplotlib's own: a name in Chinese, Japanese or Korean needs a font with its letters.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from camlib.errors import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST = "DejaVu Sans"
"""The font that comes with matplotlib."""

_BACKEND = "MPLBACKEND"

_EASTERN = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Noto Sans KR", "Source Han Sans SC", "Source Han Sans", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Heiti TC"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "MS Gothic", "Malgun Gothic"),
    *("Apple SD Gothic Neo", "NanumGothic", "IPAexGothic", "TakaoGothic", "Droid Sans Fallback"),
    *("Arial Unicode MS", "Unifont"),
)
"""System fonts with the letters of Chinese, Japanese or Korean."""


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in the block with matplotlib's defaults and fonts for eastern names."""
    matplotlib = imported()
    families = _families()
    with warnings.catch_warnings(), matplotlib.style.context("default"):
        matplotlib.rcParams["font.family"] = list(families)
        # Text in SVG and PDF stays text, to search and to edit.
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["pdf.fonttype"] = 42
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def check_letters(texts: Iterable[str]) -> None:
    """Warn of letters in `texts` that no font has."""
    letters = {letter for text in texts for letter in text if not letter.isascii()}
    families = _families() if letters else ()
    if lacking := sorted(letter for letter in letters if not _has(families, letter)):
        warn(
            f"no font of this system has {''.join(lacking[:10])!r}, so they are drawn as boxes; "
            "install a font, such as Noto Sans CJK for Chinese, Japanese and Korean"
        )


def imported() -> Any:
    """The module matplotlib, even if the variable MPLBACKEND names an unknown backend."""
    try:
        import matplotlib
    except ValueError:
        wrong = os.environ.pop(_BACKEND)
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # partly imported
        try:
            import matplotlib
        finally:
            os.environ[_BACKEND] = wrong
    import matplotlib.style

    return matplotlib


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with sizes in inches, which any notebook can show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Figure = _page()(figsize=(width, height), dpi=150)
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


@cache
def _page() -> Any:
    from matplotlib.figure import Figure

    class Page(Figure):
        """A figure that is saved in the house style, and that notebooks show without pyplot."""

        def savefig(self, *args: Any, **options: Any) -> None:
            with house_style():
                super().savefig(*args, **options)

        def _repr_png_(self) -> bytes:
            from camlib.visual.files import to_png

            return to_png(self)

    return Page


def _families() -> tuple[str, ...]:
    """Installed fonts: matplotlib's own, the user's, and those for eastern names."""
    from matplotlib.font_manager import fontManager

    matplotlib = imported()
    there = {font.name for font in fontManager.ttflist}
    users = [
        name
        for family in matplotlib.rcParams["font.family"]
        for name in matplotlib.rcParams.get(f"font.{family}", [family])
    ]
    latin = matplotlib.rcParamsDefault["font.sans-serif"]
    others = [name for name in (*users, *_EASTERN) if name in there and name not in latin]
    return tuple(dict.fromkeys([_FIRST, *others]))


def _has(families: tuple[str, ...], letter: str) -> bool:
    return any(_font(family).get_char_index(ord(letter)) for family in families)


@cache
def _font(family: str) -> Any:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont(family))
