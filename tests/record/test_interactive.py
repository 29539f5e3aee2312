"""A figure to play with holds all it needs, answers to hand and keyboard, and is a picture where no script runs."""

import json
import re

import matplotlib.pyplot as plt
import played
import pytest

from lib.record.interactive import Slider, Value, interactive_figure, one_two_five, with_decimals

SCRIPT = """
const compute = ({first, second}, {factor}) => ({
  product: factor * first * second, side: first > second ? null : "right"});
const draw = (setting, found, given, [svg]) => {
  const panel = axes(svg, {x: [0, 10], y: [-1, 1], xTicks: [0, 10], yTicks: [0], xLabel: "x", yLabel: "y"});
  panel.curve([[0, 0], [10, 1]], "forward");
  panel.dot(setting.first, 0.5, "reverse");
  panel.show();
};
const words = ({first}) => `First is ${first}.`;
"""


def made(tmp_path, **changed):
    path = tmp_path / "own.js"
    path.write_text(SCRIPT)
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1])
    sliders = [Slider("first", "the first", (1, 2, 4), 2),
               Slider("second", "the second", (0.5, 3), 3, ("half", "three"))]
    parts = {"sliders": sliders, "values": [Value("product", "product", 2), Value("side", "side")],
             "panels": ["a line and a dot"], "still": figure, "alt": "A line that rises from zero to one",
             "caption": "A caption", "given": {"factor": 1000}}
    return interactive_figure("own", "A title", path, **parts | changed)


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    return made(tmp_path_factory.mktemp("figure"))


@pytest.fixture(scope="module")
def page(browser, figure):
    with played.opened(browser, figure, width=380) as page:
        yield page


def test_a_slider_moves_the_numbers_it_should(page, figure):
    assert played.shown(page, figure, first=2, second=3) == {"product": 6000, "side": "right"}
    assert played.shown(page, figure, first=4) == {"product": 12000, "side": "none"}
    assert played.shown(page, figure, second=0.5) == {"product": 2000, "side": "none"}
    assert page.locator("dd").all_inner_texts() == ["2,000.00", "none"]
    assert page.locator(".play-words").inner_text() == "First is 4."


def test_the_keyboard_moves_a_slider_and_its_words_are_read_out(page, figure):
    played.shown(page, figure, first=1, second=0.5)
    slider = page.get_by_label("the first")
    slider.focus()
    before = page.locator("circle").get_attribute("cx")
    page.keyboard.press("ArrowRight")
    assert page.locator("data").first.get_attribute("value") == "1000"
    assert page.locator("circle").get_attribute("cx") != before
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("data").first.get_attribute("value") == "6000"
    assert page.get_by_label("the second").get_attribute("aria-valuetext") == "three"
    assert page.locator("output").all_inner_texts() == ["2", "three"]


def test_it_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.locator("svg").bounding_box()["width"] > 300


def test_on_paper_the_picture_stands_in_for_the_sliders(page):
    assert not page.locator("img").is_visible() and page.locator("svg").is_visible()
    page.emulate_media(media="print")
    assert page.locator("img").is_visible() and not page.locator("input").first.is_visible()
    page.emulate_media(media="screen")


def test_without_scripts_the_picture_is_there_with_its_words(browser, figure):
    with played.opened(browser, figure, scripts=False) as page:
        assert page.locator("img").is_visible() and not page.locator("input").first.is_visible()
        assert page.locator("img").get_attribute("alt") == "A line that rises from zero to one"


def test_a_figure_to_play_with_closes_its_own_picture(tmp_path):
    open_before = plt.get_fignums()
    made(tmp_path)
    assert plt.get_fignums() == open_before


def test_it_is_one_piece_of_html_or_a_picture(figure):
    bundle = figure._repr_mimebundle_()
    assert bundle["text/html"] == figure.html and figure.picture.startswith(b"\x89PNG")
    assert not re.search(r'(src|href)="(?!data:)', figure.html) and "http" not in figure.html.replace("http-equiv", "")
    assert len(figure.html) < 30_000


def test_data_cannot_end_the_script(tmp_path):
    found = made(tmp_path, given={"factor": 2, "word": "</script><b>"})
    assert found.html.count("</script>") == 1
    given = re.search(r"given = (.*);\n", found.html)[1]
    assert json.loads(given) == {"factor": 2, "word": "</script><b>"}


def test_words_are_text_and_labels_may_be_html(tmp_path):
    found = made(tmp_path, alt='"a" < b', sliders=[Slider("first", "a<sub>r</sub>", (1,), 1)])
    assert 'alt="&#34;a&#34; &lt; b"' in found.html and "a<sub>r</sub></label>" in found.html


@pytest.mark.parametrize(("start", "texts", "said"), [(5, (), "slider 'first': start 5 is none of its stops"),
                                                      (1, ("one",), "slider 'first': 1 texts for 2 stops")])
def test_a_slider_that_cannot_be_is_refused(start, texts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Slider("first", "label", (1, 2), start, texts)


def test_data_that_json_does_not_hold_is_refused(tmp_path):
    with pytest.raises(ValueError):
        made(tmp_path, given={"factor": float("nan")})


def test_a_slider_over_numbers_has_its_start_among_them():
    slider = Slider.over("a", "a", [3, 1, 3], 2, lambda value: f"no. {value}")
    assert slider.pairs() == [(1, "no. 1"), (2, "no. 2"), (3, "no. 3")] and slider.place == 1
    assert Slider("a", "a", (1000, 0.5), 0.5).pairs() == [(1000, "1,000"), (0.5, "0.5")]


def test_numbers_for_sliders():
    assert one_two_five(5, 200) == [5, 10, 20, 50, 100, 200]
    assert with_decimals([[0.12345, 1], (2.55,)], 2) == [[0.12, 1.0], [2.55]]
