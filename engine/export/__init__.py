"""Takes a run out of the engine: one file that answers about photos as the run does, where `engine` is not installed.

Handed the models of a run; hands on an ONNX or torch file whose input is a photo's pixels and whose output is
calibrated probabilities, with class names, contract, versions and licences in its metadata, and what opens it.

All that stands between a photo and its answer is in the graph, the resize above all: models that were served with
another library's resize than they were trained with are the commonest way to lose accuracy without an error. So the
graph says every step in plain arithmetic (`pixels`, `answers`), and no operator called Resize is asked for.
"""
