"""Batches for a model, made ahead of it: bytes, plan, pixels and the one pass brought together.

Handed samples, a `Source` of their bytes, and which of them make up which batch; hands on `Batch`es: normalised
channels-last images, mixed labels, rows. A thread of its own goes straight down (read, open, draw, regions, decode)
while the model works on the batch before. Files that cannot be used go to its quarantine, and their places are filled.

It is the one room that knows decode and augment both, and it does not know the model: training, scoring, prediction,
copies on disk and the bench take their batches from the same place.
"""
