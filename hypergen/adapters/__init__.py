"""Low-rank adapters as data: read in every common naming, in one canonical form; inspected, merged, screened."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.adapters.adapter import Adapter, by_base
    from hypergen.adapters.bases import Fit, check_fit, fit_to_base, load_base, with_model_names
    from hypergen.adapters.factors import LowRank
    from hypergen.adapters.inspection import Inspected, inspect_adapter, inspect_adapters, nearest, write_inspection
    from hypergen.adapters.merge import merge_adapters
    from hypergen.adapters.names import folder_names, model_names
    from hypergen.adapters.read import find_adapters, read_adapter, read_adapters
    from hypergen.adapters.stack import StackedAdapters, stack_adapters
    from hypergen.adapters.write import peft_state, runtime_state, write_adapter

__getattr__, __dir__, __all__ = lazy_exports(__name__)
