"""The one pass: ragged uint8 images and a plan in, one normalised channels-last batch out.

`plan` is the contract, `reference` its definition in plain torch, `dispatch` picks the executor. `jpeg` is for what
comes before: it decodes no more of a photo than a plan looks at. Nothing outside this folder imports Triton or C++, and
nothing in it imports the rest of the engine.
"""

from .dispatch import Executor, one_pass
from .plan import Border, Color, Fill, Filter, Plan, Ragged

__all__ = ["Border", "Color", "Executor", "Fill", "Filter", "Plan", "Ragged", "one_pass"]
