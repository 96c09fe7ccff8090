"""Draws numbers: what will be done to each image, as parameters of a plan. Touches no pixel and no file.

Handed the recipe's `augment` section, addresses of randomness (seed, epoch, key of the sample) and sizes of photos;
hands on a `Plan`, the regions of the photos that it looks at, and the extras, which no plan can express. What is scored
and served is a plan, too: the contract's, and those of its test-time views.

It stands after decode, in whose terms regions are said, and before the loader, which alone has plan and pixels in its
hands. So drawing costs the same at any resolution, and what runs a plan can be exchanged.
"""
