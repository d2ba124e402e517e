"""A self-hosted speech server that OpenAI's clients use by changing one URL."""

__version__ = "0.1.0"
