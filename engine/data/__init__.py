"""From what the user points at to one clean table of samples, with folds: the manifest.

Handed the recipe's `data` section; hands on a `Manifest` (ids, where the bytes are, labels, groups, folds), the class
names in their order, and what was left out, with reasons. What was found out about a file is kept and not found again.

It stands before anything is ordered, decoded or learnt: which images there are, and in which fold each is held out,
must not depend on how they are trained on. The user's own files stay as they are and where they are.
"""
