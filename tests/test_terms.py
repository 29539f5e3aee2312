"""Terms of the glossary: linked where a page's text first uses them, and nowhere else."""

import re

import pytest

from pipeline import terms

GLOSSARY = """<dl class="simple glossary">
<dt id="term-mask">mask<a class="headerlink" href="#term-mask" title="Link to this term">#</a></dt><dd><p>A symbol
<math><mi>M</mi></math>.</p>
</dd>
<dt id="term-prompt">prompt<a class="headerlink" href="#term-prompt">#</a></dt><dd><p>What is asked.</p></dd>
<dt id="term-forward-prompt">forward prompt<a class="headerlink" href="#x">#</a></dt><dd><p>In order.</p></dd>
<dt id="term-RoPE">RoPE<a class="headerlink" href="#term-RoPE">#</a></dt><dd><p>It rotates.</p></dd>
<dt id="term-error">error<a class="headerlink" href="#term-error">#</a></dt><dd><p>A difference.</p></dd></dl>"""
KNOWN = terms.entries(GLOSSARY)


def page(content):
    return (f"<html><nav><p>mask</p></nav><article class='bd-article'>{content}</article>"
            "<footer><p>mask</p></footer></html>")


def linked(content):
    """The words that are linked in a page's text, each with the place that its link names."""
    links = re.compile(r'<a class="term" href="glossary.html#([^"]*)">(.*?)</a>', re.DOTALL)
    return [(word, place) for place, word in links.findall(terms.linked(page(content), KNOWN))]


def test_entries_are_read_with_their_formulas():
    assert list(KNOWN) == ["mask", "prompt", "forward prompt", "RoPE", "error"]
    assert KNOWN["mask"] == ("term-mask", "A symbol\n<math><mi>M</mi></math>.")


def test_the_first_use_is_linked_in_any_form_and_the_longest_term_wins():
    assert linked("<p>Masks in a forward\nprompt, a mask, a forward prompt; then <em>prompts</em>.</p>") == [
        ("Masks", "term-mask"), ("forward\nprompt", "term-forward-prompt"), ("prompts", "term-prompt")]


@pytest.mark.parametrize("content", [
    "<h2>The mask</h2>", '<p><a href="x.html">mask</a></p>', "<p><code>mask</code></p>",
    "<p><math><mi>mask</mi></math></p>",
    "<details><p>mask</p></details>", "<table><tr><td><p>mask</p></td></tr></table>", "<div>mask</div>",
    '<div class="checks"><p>mask</p></div>', '<div class="admonition dropdown"><p>mask</p></div>',
    "<figure><figcaption><p>mask</p></figcaption></figure>", "<p>unmasked, mask-free, masking, remask</p>",
    "<p>rope</p>",
    "<p>a causal mask</p>", "<p>an error</p>", "<script>mask</script>"])
def test_no_term_is_linked_elsewhere(content):
    assert linked(content) == []
    assert terms.linked(page(content), KNOWN) == page(content)
    assert linked(content + "<p>The mask.</p>") == [("mask", "term-mask")]  # the page is read on behind it


def test_the_entries_of_the_terms_travel_with_the_page_and_the_rest_stays_as_it_was():
    content = "<p>A &lt;b&gt; mask&#8217;s<br/>way &amp; <img alt='mask' src='x'/><!-- mask --> mask</p>"
    found = terms.linked(page(content), KNOWN)
    text = '<p id="about-term-mask">A symbol\n<math><mi>M</mi></math>.</p>'
    assert found == page(content).replace("mask&", '<a class="term" href="glossary.html#term-mask">mask</a>&').replace(
        "</article>", f'<div class="term-texts" hidden>{text}</div></article>')
    assert terms.linked(found, KNOWN) == found


def test_a_term_that_a_person_linked_is_not_linked_again_and_has_its_entry():
    found = terms.linked(page('<p><a href="glossary.html#term-error">error</a>; error</p>'), KNOWN)
    assert found.count("<a ") == 1 and 'id="about-term-error"' in found
