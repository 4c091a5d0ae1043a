"""One folder a method, the same three parts in each; no method imports another.

weights             what a file holds, and what it makes of a reference     paired/adapter.py, projections.py
what they compute   the formula, pure                                       paired/attention.py, cascade.py
how they condition  on a host, by way of `conditioning/`                    paired/conditioning.py, cascade_modes.py, settings.py
"""
