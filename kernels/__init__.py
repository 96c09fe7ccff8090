"""The one pass: ragged uint8 images and a plan in, one normalised channels-last batch out.

Handed a `Plan` and the images as decoded, `one_pass` fills a batch. `plan` is the contract, `reference` its definition
in plain torch, `dispatch` picks the executor: Triton, C++ or the reference. `jpeg` is for what comes before: it decodes
no more of a photo than a plan looks at.

It stands first and imports nothing of the engine, so that it can be read, tested and used by itself. Nothing outside
this folder imports Triton or C++.
"""

from .dispatch import Executor, one_pass
from .plan import Border, Color, Fill, Filter, Placed, Plan, Ragged

__all__ = ["Border", "Color", "Executor", "Fill", "Filter", "Placed", "Plan", "Ragged", "one_pass"]
