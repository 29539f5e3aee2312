"""The mathematics and the experiments behind the book, one idea a module, in the paper's order."""
