"""Pictures of few colours: figures are drawn in a few and their shades, and take a third of the space so."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

COLOURS = 256  # of a picture; fewer move the pale bands of two lines into one colour


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture itself if it has at most `COLOURS` colours or is not opaque, else drawn with as many.

    Most colours of a figure are shades between a line and its ground; merging close ones halves the file.
    """
    merged = with_palette(picture)
    return merged.convert("RGB") if merged else picture


def with_palette(picture: Image.Image) -> Image.Image | None:
    """The picture with a palette of `COLOURS` colours; None if it has no more than that or is not opaque."""
    whole = picture.convert("RGBA")
    if whole.getcolors(COLOURS) is not None or whole.getchannel("A").getextrema() != (255, 255):
        return None
    return whole.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


def smaller(book: Any) -> None:
    """Store the pictures of a notebook's outputs in few colours, in place; points to the inch stay as they are."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = base64.b64encode(smaller_png(base64.b64decode(data["image/png"]))).decode()


def smaller_png(picture: bytes) -> bytes:
    """A PNG with a palette of few colours; itself if it has few already, is not opaque, or would not be smaller."""
    drawn, found = Image.open(io.BytesIO(picture)), io.BytesIO()
    merged = with_palette(drawn)
    if merged is None:
        return picture
    merged.save(found, "png", optimize=True, **({"dpi": drawn.info["dpi"]} if "dpi" in drawn.info else {}))
    return min(found.getvalue(), picture, key=len)
