"""Finished pages: formulas are MathML, what is unused is gone, and what is left still says the same."""

import re

import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from pipeline import finish
from pipeline.settings import Refused

PAGE = r"""<html><head>
<script src="../_static/scripts/fontawesome.js?digest=1"></script>
<script defer="defer" src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"></script>
<script>const THEBE_JS_URL = "https://unpkg.com/thebe"; const thebe_selector = ".cell"</script>
<script>let toggleHintShow = 'Click to show';</script>
</head><body class="used"><section class="theorem-content" id="proof-content">
<p>Where <span class="math notranslate nohighlight">\(a &lt; b\)</span>:</p>
<div class="math notranslate nohighlight" id="eq">
<span class="eqno">(1)</span>\[\begin{split}x &amp;= 1\\ y &amp;= 2\end{split}\]</div>
<pre>re.compile("\(x\)")</pre><code>\(y\)</code>
<img alt="A line" src="../_images/one.png" /></section></body></html>"""


@pytest.fixture
def site(tmp_path):
    for folder in ("book", "_images", "_static/scripts", "_static/styles", "_static/vendor/fontawesome/webfonts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book" / "a.html").write_text(PAGE, encoding="utf-8")
    Image.new("RGBA", (40, 30), (200, 10, 10, 255)).save(tmp_path / "_images" / "one.png")
    (tmp_path / "_static" / "scripts" / "fontawesome.js").write_text("//")
    (tmp_path / "_static" / "scripts" / "menu.js").write_text('toggle("from-script")')
    (tmp_path / "_static" / "styles" / "pydata-sphinx-theme.css").write_text(
        '/*! a licence */ /* chat */ .used, .unused { color: red } .unused { color: blue } .from-script { top: 0 }'
        '@media print { .unused { top: 1px } } .used:not(.unused)::before { content: "\\f0c9" }')
    return tmp_path


def test_formulas_become_mathml_and_code_stays(site):
    finish.finish(site)
    text = (site / "book" / "a.html").read_text(encoding="utf-8")
    assert text.count("<math") == 2 and '<math display="block">' in text and "<mo>&lt;</mo>" in text
    assert r'<pre>re.compile("\(x\)")</pre><code>\(y\)</code>' in text
    assert '<span class="eqno">(1)</span><math' in text and "split" not in text


def test_a_formula_that_is_not_understood_is_refused_with_its_page(site):
    (site / "book" / "a.html").write_text(PAGE.replace("a &lt; b", r"\nosuchcommand"), encoding="utf-8")
    with pytest.raises(Refused, match=r"a\.html: a formula cannot be typeset.*nosuchcommand"):
        finish.finish(site)


@pytest.mark.parametrize("formula", [r"\widetilde W_Q", r"\bigl(\begin{smallmatrix}1&0\\0&1\end{smallmatrix}\bigr)"])
def test_what_the_book_writes_is_understood(formula):
    assert finish.mathml(formula, False).startswith("<math>")


def test_space_between_rows_is_no_text_of_the_formula():
    found = finish.mathml(r"\begin{cases}1&x\\[2pt]2&y\\[-.5em]3&z\end{cases}", True)
    assert found.count("<mtr>") == 3 and re.sub(r"<[^>]*>|\u2063", "", found) == "{1x2y3z"


def test_programs_that_no_page_uses_are_gone(site):
    finish.finish(site)
    text = (site / "book" / "a.html").read_text(encoding="utf-8")
    assert "fontawesome" not in text and "mathjax" not in text and "THEBE" not in text and "toggleHintShow" in text
    assert not (site / "_static" / "scripts" / "fontawesome.js").exists()
    assert "proof-content" not in text and 'id="eq"' in text


def test_references_are_no_list_of_other_things(site):
    page = site / "book" / "a.html"
    entries = '<div role="list" class="citation-list"><div role="doc-biblioentry">A</div></div></body>'
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", entries), encoding="utf-8")
    finish.finish(site)
    text = page.read_text(encoding="utf-8")
    assert '<div class="citation-list"><div role="doc-biblioentry">A' in text and 'role="list"' not in text


def test_stylesheets_keep_the_rules_that_can_apply(site):
    finish.finish(site)
    sheet = (site / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    assert "a licence" in sheet and "chat" not in sheet and "blue" not in sheet and "@media" not in sheet
    assert re.search(r"\.used\s*{ color: red }", sheet) and ".from-script" in sheet and ":not(.unused)" in sheet


def test_pictures_keep_their_pixels_and_can_be_enlarged(site):
    before = Image.open(site / "_images" / "one.png").convert("RGBA").tobytes()
    finish.finish(site)
    assert Image.open(site / "_images" / "one.webp").convert("RGBA").tobytes() == before
    text = (site / "book" / "a.html").read_text(encoding="utf-8")
    assert '<a class="enlarge" href="../_images/one.webp"><img ' in text and "A line</figcaption>" in text
    assert not (site / "_images" / "one.png").exists()


@pytest.mark.parametrize(("dpi", "size"), [(110, (40, 30)), (220, (20, 15)), (165, (27, 20)), (55, (40, 30))])
def test_a_picture_with_more_points_to_the_inch_is_sharper_and_not_larger(site, dpi, size):
    picture = Image.new("RGB", (40, 30))
    picture.save(site / "_images" / "one.png", dpi=(dpi, dpi))
    finish.finish(site)
    text = (site / "book" / "a.html").read_text(encoding="utf-8")
    (shown,) = re.findall(r'<img [^>]*src="../([^"]*)" width="(\d+)" height="(\d+)"', text)
    assert tuple(map(int, shown[1:])) == size == Image.open(site / shown[0]).size
    assert 'href="../_images/one.webp"' in text and Image.open(site / "_images" / "one.webp").size == (40, 30)
    dense = re.findall(r'srcset="../_images/one.webp ([^"]*)x"', text)
    assert dense == ([f"{dpi / 110:.3g}"] if dpi > 110 else [])


def test_fonts_keep_the_characters_that_are_shown(site):
    finish.finish(site)
    static = site / "_static"
    formulas = TTFont(static / finish.MATHEMATICS)
    assert ord("<") in formulas.getBestCmap() and ord("∮") not in formulas.getBestCmap() and "MATH" in formulas
    assert 0x221A in formulas.getBestCmap()  # a browser draws <msqrt> with it, though no page names it
    icons = TTFont(static / "vendor" / "fontawesome" / "webfonts" / f"{finish.ICONS}.woff2")
    assert 0xF0C9 in icons.getBestCmap() and 0xF002 not in icons.getBestCmap()


def test_a_finished_page_stays_as_it_is(site):
    finish.finish(site)
    first = (site / "book" / "a.html").read_text(encoding="utf-8")
    finish.finish(site)
    assert (site / "book" / "a.html").read_text(encoding="utf-8") == first


def test_statements_terms_and_the_search_are_finished_together(site):
    page = site / "book" / "a.html"
    statement = ('<div class="cell docutils"></div><div class="proof theorem admonition" id="thm-4-3">'
                 '<p class="admonition-title"><span class="caption-number">Theorem 2 </span> (Scores (Thm. 4.3))</p>'
                 "</div><p>One mask.</p>")
    page.write_text(f'<article class="bd-article">{statement}</article>', encoding="utf-8")
    (site / "book" / "glossary.html").write_text(
        '<dl><dt id="term-mask">mask<a class="headerlink" href="#term-mask">#</a></dt><dd><p>A \\(z\\).</p></dd></dl>')
    (site / "searchindex.js").write_text('Search.setIndex({"alltitles":{},"docnames":["book/a"],"indexentries":{}})')
    (site / "_static" / "documentation_options.js").write_text("SHOW_SEARCH_SUMMARY: true,")
    for _ in range(2):  # the second time nothing is left to do
        finish.finish(site, {"thm-4-3": "Thm 4.3"})
        text = page.read_text(encoding="utf-8")
        assert ">Theorem 4.3 </span> (Scores)</p>" in text
        assert '<a class="term" href="glossary.html#term-mask">mask</a>' in text
        assert text.count('<p id="about-term-mask">A <math><mi>z</mi></math>.</p>') == 1
        assert '"Theorem 4.3":[[0,"thm-4-3"]]' in (site / "searchindex.js").read_text(encoding="utf-8")
        options = (site / "_static" / "documentation_options.js").read_text(encoding="utf-8")
        assert options == 'SHOW_SEARCH_SUMMARY: location.protocol !== "file:",'
