"""The network (a timm backbone, a pooling, a head), its losses, and how a device runs it.

Handed the recipe's `model` and `train` sections and the number of classes; hands on a `Classifier`, which turns images
into features and features into logits, a `Loss`, and the `Runtime`: precision, memory format, compiling.

It knows neither files nor epochs. It stands before the store, so that training and answering build the same network
by the same few lines, whether its weights come from a hub or out of a checkpoint.
"""
