"""The download stage: fetch a source of images and keep it as it came.

A new source is named in ``vitprune/data/options.py``, fetched here by a module of its own and its case in ``fetch.py``,
and opened by its case in ``vitprune/data/cleaning/sources.py``.
"""
