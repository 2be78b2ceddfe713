import torch

import hypergen  # noqa: F401  # Before Lightning, which imports a torchvision that may need its operators declared.

# Tests run beside processes of their own; threads inside an operation only get in the way.
torch.set_num_threads(1)
