"""Figures of finished pages: each is numbered within its page, and the words for its picture stand below it.

A picture that a cell draws has words for those who do not see it; they become its caption, for everyone. A figure to
play with brings a caption of its own and is numbered along with the pictures.
"""

from __future__ import annotations

import itertools
import re

#: a picture that links to itself, or the caption of a figure to play with
FIGURE = re.compile(
    r'<a class="enlarge" href="(?P<address>[^"]*)">(?P<picture><img [^>]*>)</a>|<p class="play-caption">')
WORDS = re.compile(r'alt="([^"]*)"')
DONE = 'class="figure-number"'


def numbered(page: str) -> str:
    """The page with its figures numbered as they stand, each with a caption; a page that has them stays as it is."""
    if DONE in page:
        return page
    numbers = itertools.count(1)
    return FIGURE.sub(lambda found: _with_caption(found, next(numbers)), page)


def _with_caption(found: re.Match[str], number: int) -> str:
    name = f"Figure {number} of this chapter"
    label = f'<span {DONE}>{name}:</span>'
    if found["picture"] is None:
        return f"{found[0]}{label} "
    words = WORDS.search(found["picture"])
    caption = f"{label} {words[1]}" if words else f"<span {DONE}>{name}.</span>"
    shown = f'<img loading="lazy" alt="{name}, described in its caption"'  # said once to those who hear the page
    picture = WORDS.sub("", found["picture"]).replace("<img ", shown, 1)
    return (f'<figure class="numbered" id="figure-{number}"><a class="enlarge" href="{found["address"]}">{picture}</a>'
            f"<figcaption>{caption}</figcaption></figure>")
