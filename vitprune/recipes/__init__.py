"""What each stage does, from inputs to results: no terminal, no files of the pipeline, no params file.

One module per stage. A recipe takes data, models and the options of the components that it uses, reports progress
through callbacks, and returns a frozen dataclass. Of several ranks, all call it, and the main one writes. The stages
download and clean need none: they are one call into ``vitprune.data``.
"""
