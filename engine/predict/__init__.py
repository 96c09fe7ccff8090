"""Fold models answer for new images, and the answers become files.

Handed a run folder and images; hands on predictions for machines and a submission in the shape that somebody else
decided. In three steps, so that what can be refused is refused before the first image is decoded: prepare, answer,
write.

It knows no optimiser and no epoch. Beside it stands training, and neither knows the other: what they share stands
before both.
"""
