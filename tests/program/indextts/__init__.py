"""A stand-in for IndexTTS2's checkout, which can't be had here: its signatures, and noise for speech."""
