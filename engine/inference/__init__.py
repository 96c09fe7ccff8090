"""Trained models answer: logits and features for any views of images, and predictions for all rows of a loader.

Handed checkpoints, or a model in training, and a loader; hands on `Predictions`, of each `Member` by itself.

It stands before training and predict, because both ask in the same way: validation, out-of-fold answers, specialists
and `engine infer` are one function, so what was measured is what will be answered.
"""
