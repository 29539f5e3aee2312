"""Tests compute on one thread each: pytest runs several at once, and threads that fight are slower than none."""

import torch

torch.set_num_threads(1)
