"""Where tasks run: worker processes, kept alive, fed by priority, replayed when one dies."""
