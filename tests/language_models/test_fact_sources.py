"""Facts of a source, cut to a few; what is refused."""

import pytest

from lib.language_models import fact_sources


def test_sources_and_datasets_that_are_none_are_refused():
    with pytest.raises(ValueError, match="data must be 'generated' or 'published'"):
        fact_sources.facts_of("p2c", "elsewhere", 3)
    with pytest.raises(ValueError, match="no dataset 'x'"):
        fact_sources.facts_of("x", "generated", 3)
