"""What makes sound: one folder per model, a light manifest in its `__init__` and the weight in `engine.py`."""
