"""The catalogue of bad inputs: what a user may hand to the command line, and what it answers."""

from bad_inputs import documents, packs, tables

CASES = tables.CASES + documents.CASES + packs.CASES
