"""Is a fact stored once? Facts overwritten through one question, and what other questions then answer."""
