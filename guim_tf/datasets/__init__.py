"""Readers that turn a public data set, or the synthetic shop, into the input of `build-dataset`.

Each module has a `prepare` that writes a folder with `mapping.json` and returns that file.
"""
