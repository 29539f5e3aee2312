"""The mathematics and the experiments behind the book, in four packages.

    encodings          what a positional encoding does
    theory             the paper's statements, and their proofs' tools; nothing is trained
    one_layer          the letter task, the one-layer model, its training, and what is measured in it (Sec. 5)
    language_models    checkpoints, facts, probes and fine-tuning of language models (Sec. 6)
    record             claims, the ledger, provenance, options, figures

Imports run one way: `encodings` and `record` import none of the others, `theory` and `one_layer` import those two but
not each other, `language_models` may import all.
"""
