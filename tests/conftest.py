"""What holds for every test."""

import torch

# Threads that wait for each other make small networks, and a busy machine, several times slower.
torch.set_num_threads(1)
