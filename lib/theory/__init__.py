"""The paper's statements as functions, one module a section, and the tools of their proofs. Nothing here is trained."""
