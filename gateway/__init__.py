"""tidegate: a RAG chat service that stays up, fast and honest under a flood. Importing it has no effects."""

__version__ = "0.1.0"
