"""Figures of a page: numbered in their order, the words for the picture as caption."""

import re

from pipeline.page_figures import numbered

PICTURE = '<a class="enlarge" href="{0}.webp"><img alt="{1}" src="{0}.webp" /></a>'
PAGE = (PICTURE.format("one", "A line that rises.") + '<div class="play"><img class="play-still" alt="Still"/>'
        '<p class="play-caption">Move the slider.</p></div>' + PICTURE.format("two", "Bars &amp; dots."))


def test_figures_are_numbered_as_they_stand_those_to_play_with_among_them():
    found = numbered(PAGE)
    assert re.findall(r'<span class="figure-number">([^<]*)</span> ([^<]*)<', found) == [
        ("Figure 1 of this chapter:", "A line that rises."), ("Figure 2 of this chapter:", "Move the slider."),
        ("Figure 3 of this chapter:", "Bars &amp; dots.")]
    assert re.findall(r'<figure class="numbered" id="(figure-\d)"><a class="enlarge" href="(\w+)', found) == [
        ("figure-1", "one"), ("figure-3", "two")]
    assert re.findall(r"<img ([^>]*)>", found)[-1] == (
        'loading="lazy" alt="Figure 3 of this chapter, described in its caption" src="two.webp" /')


def test_words_are_said_once_to_those_who_hear_the_page():
    assert numbered(PAGE).count("A line that rises.") == 1


def test_a_page_with_numbers_stays_as_it_is():
    assert numbered(numbered(PAGE)) == numbered(PAGE)
