"""HTTP only: bodies in, services called, answers out."""
