"""What every test runs under: no network, and as many threads as the environment asks for, one unless it does."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several small networks are slower, not faster, on more
