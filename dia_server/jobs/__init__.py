"""Work that outlives its request: accepted with everything that it depends on, run by any runner, exactly once."""
