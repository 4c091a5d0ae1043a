"""The miniature: a small drawn world in which the whole method really works on a CPU.

`world` draws portraits of two people, with sentences, masks and reference photos, from integer seeds.
"""
