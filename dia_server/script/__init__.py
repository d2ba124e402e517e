"""What is said: text cleaned, parsed into turns, and cut into segments; pure functions of the text and the settings."""
