"""The mathematics and the experiments behind the book: one module and five packages.

    encodings          what a positional encoding does
    record             claims, the ledger, provenance, options, figures
    theory             the paper's statements, and their proofs' tools; nothing is trained
    one_layer          the letter task, the one-layer model, its training, and what is measured in it (Sec. 5)
    language_models    checkpoints, facts, probes and fine-tuning of language models (Sec. 6)
    stores             is a fact stored once? Facts edited through one question, and what the others then answer

Each package says in its own first lines what its modules are for. Imports run one way, down this list: `encodings` and
`record` import none of the others, `theory` those two, `one_layer` those and `theory`, `language_models` all of these,
and `stores` all.
"""
