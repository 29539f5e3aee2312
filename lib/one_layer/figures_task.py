"""The one-layer task and activation patching as pictures, for a reader who has seen neither."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.one_layer.task import ALPHABET, LETTERS, MASK, PLACEHOLDER, read
from lib.record import figures
from lib.record.figures import LINES

_LETTER, _CAPITAL = "#0072B2", "#009E73"
#: row -> its sequence, what is asked for, and the line that it is drawn as
_ROWS = {
    "training sequence": ("0d00D0", "", "bound"),
    "forward question": ("0_00D0", "answer: d", "forward"),
    "reverse question": ("0D00_0", "answer: d", "reverse"),
    "placeholder question": ("0d00D_", "answer: 0", "control"),
}


def task_in_tokens() -> Figure:
    """A training sequence, two questions that training asks of it, and the reverse question, which it never asks."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    for line, (name, (text, answer, look)) in enumerate(_ROWS.items()):
        height, tokens = -1.15 * line, read(text).tolist()
        colour = LINES[look]["color"]
        axes.text(-0.8, height, name, ha="right", va="center", fontsize=10, color=colour)
        for place, token in enumerate(tokens):
            figures.token_box(axes, place, height, "?" if token == MASK else ALPHABET[token], _colour(token, colour))
        axes.text(len(tokens) - 0.2, height, answer, va="center", fontsize=10, color=colour)
        if MASK in tokens:
            evidence = next(place for place, token in enumerate(tokens) if LETTERS <= token < PLACEHOLDER)
            figures.bent_arrow(axes, tokens.index(MASK), evidence, height + 0.3, colour)
    axes.set(xlim=(-3.4, 7.4), ylim=(-3.9, 0.9))
    axes.axis("off")
    return figure


def _colour(token: int, asked: str) -> str:
    if token == MASK:
        return asked
    return _LETTER if token < LETTERS else _CAPITAL if token < PLACEHOLDER else "#999999"


#: site of a patch -> what it is, along the computation
_SITES = {"score": "attention\nscore", "row": "attention\ndistribution", "values": "values",
          "residual": "own\nembedding"}


def patching_in_boxes(site: str = "row") -> Figure:
    """Activation patching: one piece of the forward computation takes its place in the reverse one.

    :raises ValueError: for a site that cannot be patched
    """
    if site not in _SITES:
        raise ValueError(f"unknown site {site!r}; one of {', '.join(_SITES)}")
    figure, axes = plt.subplots(figsize=(7.2, 2.7))
    for line, name in enumerate(("forward", "reverse")):
        colour, height = LINES[name]["color"], 1.5 * (1 - line)
        axes.text(-0.65, height, f"{name}\nquery", ha="right", va="center", fontsize=10, color=colour)
        for place, (each, words) in enumerate(_SITES.items()):
            taken = each == site
            axes.text(1.5 * place + 0.4, height, words, ha="center", va="center", fontsize=9, bbox={
                "boxstyle": "round", "facecolor": "#d7e8f4" if taken else "white",
                "edgecolor": LINES["forward"]["color"] if taken else colour, "linewidth": 1.6})
        axes.text(6.4, height, "answer", ha="left", va="center", fontsize=10)
        for start, end in ((0.97, 1.22), (2.58, 2.98), (3.87, 4.22), (5.6, 6.35)):
            axes.annotate("", (end, height), (start, height), arrowprops={"arrowstyle": "->", "color": colour})
    middle = 1.5 * list(_SITES).index(site) + 0.4
    axes.annotate("", (middle, 0.42), (middle, 1.08),
                  arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "#333333"})
    axes.text(middle + 0.15, 0.75, "patched", fontsize=9, va="center")
    axes.set(xlim=(-1.8, 7.4), ylim=(-0.6, 2.1))
    axes.axis("off")
    return figure
