"""Make one voice's speech sound like another's recording, from pairs of frames in which both say the same."""
