"""Figures with sliders that need no network: one piece of HTML each, with a still picture and its words beside it.

A figure is a list of `Slider` s, a list of `Value` s that are shown, and a script of its own, a file of plain
JavaScript beside the module that describes the figure. The script defines

* ``compute(setting, given)``: the values by name, from the sliders' numbers and the data that the figure was given;
* ``draw(setting, found, given, panels)``: the panels, with the ``axes`` of ``templates/interactive.html``;
* ``words(setting, found, given)``: a sentence on what is seen;
* if it likes, ``said(slider, setting, given)``: what stands beside a slider, where that depends on the others.

The still picture is shown where no script runs, and on paper. Without a browser's HTML the picture alone is there.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
    undefined=jinja2.StrictUndefined)


@dataclasses.dataclass(frozen=True)
class Slider:
    """A native slider over a list of numbers.

    :param name: of the setting, as the script reads it
    :param label: what a reader reads; HTML
    :param stops: the numbers it can take
    :param start: the one that it begins at
    :param texts: what is read for each; the number itself where not said
    :raises ValueError: for a start that is no stop, or another number of texts than of stops
    """

    name: str
    label: str
    stops: Sequence[float | int]
    start: float | int
    texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.start not in self.stops:
            raise ValueError(f"slider {self.name!r}: start {self.start!r} is none of its stops {list(self.stops)}")
        if self.texts and len(self.texts) != len(self.stops):
            raise ValueError(f"slider {self.name!r}: {len(self.texts)} texts for {len(self.stops)} stops")

    @property
    def place(self) -> int:
        """Index of the start among the stops."""
        return list(self.stops).index(self.start)

    @classmethod
    def over(cls, name: str, label: str, stops: Iterable[float | int], start: float | int,
             text: Callable[[Any], str]) -> Slider:
        """A slider over these numbers and its start, in order, with a text made of each."""
        numbers = sorted({*stops, start})
        return cls(name, label, numbers, start, [text(number) for number in numbers])

    def pairs(self) -> list[tuple[float | int, str]]:
        """Each number and what is read for it."""
        return list(zip(self.stops, self.texts or [f"{stop:,}" for stop in self.stops], strict=True))


@dataclasses.dataclass(frozen=True)
class Value:
    """A number (or a word) that the script computes and the page shows with so many digits; ``label`` is HTML."""

    name: str
    label: str
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class Interactive:
    """A figure to play with, ready to be displayed."""

    name: str
    html: str
    picture: bytes  # the still one, as PNG
    sliders: tuple[Slider, ...]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "image/png": base64.b64encode(self.picture).decode(),
                "text/plain": f"<figure {self.name}>"}


def interactive_figure(
    name: str, title: str, script: Path, *, sliders: Sequence[Slider], values: Sequence[Value],
    panels: Sequence[str], still: Figure, alt: str, caption: str, given: Any = None, height: int = 15,
) -> Interactive:
    """One piece of HTML that holds all it needs.

    :param name: unique on its page, a word
    :param script: the file of JavaScript, see above
    :param panels: what each panel shows, in words
    :param still: the picture where no script runs; closed here
    :param alt: the still picture in words
    :param caption: HTML that stands below, with or without a script
    :param given: data for the script, as JSON holds it
    :param height: of a panel, in lines of text (rem)
    :raises ValueError: for data that JSON does not hold, such as nan
    """
    stops = {slider.name: slider.pairs() for slider in sliders}
    marked = lambda parts: [dataclasses.replace(part, label=Markup(part.label)) for part in parts]
    drawn = _drawn(still)
    page = _TEMPLATES.get_template("interactive.html").render(
        name=name, title=title, sliders=marked(sliders), values=marked(values), panels=panels, height=height, alt=alt,
        caption=Markup(caption), stops=_json(stops), given=_json(given),
        script=Markup(script.read_text(encoding="utf-8")), picture=base64.b64encode(drawn).decode())
    plt.close(still)
    return Interactive(name, page, drawn, tuple(sliders))


def with_decimals(values: Any, digits: int) -> Any:
    """Numbers, or lists of them, with so many decimals: what a page has to carry."""
    if isinstance(values, (list, tuple)):
        return [with_decimals(value, digits) for value in values]
    return round(float(values), digits)


def one_two_five(low: float | int, high: float | int) -> list[int]:
    """1, 2, 5, 10, 20, ... from ``low`` to ``high``."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (round(digit * 10.0**exponent) for exponent in exponents for digit in (1, 2, 5))
    return [number for number in numbers if low <= number <= high]


def _json(value: Any) -> Markup:
    """JSON that may stand in a script: it cannot close the element."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _drawn(figure: Figure) -> bytes:
    """The picture as PNG in few colours: a third of the size."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=130)
    Image.open(full).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()
