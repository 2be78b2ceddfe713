"""Learning problems as LightningModules, and what feeds them."""

import os

# oneDNN compiles a kernel per shape and keeps 1,024 of them; thousands of architectures have more, and compiling them
# again and again took a quarter of the time that the networks take. It reads this at its first operation.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
