"""What many tests share: one thread, so that numbers repeat bit for bit."""

import torch

torch.set_num_threads(1)
