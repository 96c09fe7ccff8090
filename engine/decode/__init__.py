"""Encoded bytes to upright RGB pixels: headers first, then no more of a photo than is asked for.

Handed the bytes of a batch, `open` answers with `Opened`, whose sizes are known; handed these and the regions wanted,
`pixels` answers with `Pixels`. In the place of what it cannot take stands a `Fault`.

Which file is a picture, and which pixels it has, is settled in `engine.pictures`, by which whoever meets files goes.

It only decodes: resizing is part of the one pass. It reads no file, knows no plan and calls nobody back. A batch gets
its plan between the two calls, because a plan needs sizes, and the regions to decode need a plan.
"""
