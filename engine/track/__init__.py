"""A run as others show it: TensorBoard, Weights & Biases, MLflow, and past runs side by side.

Handed a run folder; sends on what is new in its log, recipe and scores.

It reads the store alone and never the trainer, so a run is tracked alike while it trains, after a crash, when the
network is back, and a year later. A tracker that hangs costs training nothing.
"""
