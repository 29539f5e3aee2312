"""Language models (Sec. 6): checkpoints without remote code, facts, probes, fine-tuning, decoding, Table 7."""
