"""Pictures of few colours: close ones are merged, nothing else changes."""

import base64
import io

import nbformat
import numpy as np
from PIL import Image

from pipeline import pictures


def of_many_colours():
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    return Image.fromarray(np.stack([4 * across, 4 * down, 255 - 2 * across], 2).astype("uint8"))


def as_png(picture, **more):
    written = io.BytesIO()
    picture.save(written, "png", **more)
    return written.getvalue()


def test_a_picture_of_many_colours_is_drawn_with_fewer_that_are_close():
    many = of_many_colours()
    found = pictures.few_colours(many)
    assert len(many.getcolors(10_000)) == 4096 and len(found.getcolors(10_000)) <= pictures.COLOURS
    off = np.abs(np.asarray(found).astype(int) - np.asarray(many)).max(2)
    assert off.mean() < 12 and off.max() < 40
    few = many.quantize(50).convert("RGB")
    assert pictures.few_colours(few) is few
    see_through = Image.merge("RGBA", [*many.split(), many.split()[0]])
    assert pictures.few_colours(see_through) is see_through


def test_pictures_of_a_notebook_are_stored_in_few_colours_at_their_size():
    shades = np.random.default_rng(0).integers(0, 60, (256, 256, 3), dtype=np.uint8)
    png = as_png(Image.fromarray(190 + shades), dpi=(220, 220))
    few = as_png(Image.new("RGB", (9, 9), "red"))
    shown = [nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(each).decode(), "text/plain": "x"})
             for each in (png, few)]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("a"),
                                           nbformat.v4.new_code_cell("b", outputs=shown)])
    pictures.smaller(book)
    found, same = (base64.b64decode(each["data"]["image/png"]) for each in book.cells[1].outputs)
    assert same == few and len(found) < len(png) / 2 and book.cells[1].outputs[0]["data"]["text/plain"] == "x"
    picture = Image.open(io.BytesIO(found))
    assert picture.size == (256, 256) and round(picture.info["dpi"][0]) == 220
    assert picture.convert("RGB").tobytes() == pictures.few_colours(Image.open(io.BytesIO(png))).tobytes()
