"""From a model's samples to the bytes that a listener gets: tempo, rate, format; plain code that runs in threads."""
