"""The training step written out: equal questions asked once, tables over the vocabulary, fused kernels."""
