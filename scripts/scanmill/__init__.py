"""Scanmill's library: everything the workflow's rules do, importable and tested without Snakemake."""

__version__ = "0.1.0"
