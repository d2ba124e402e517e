"""`python -m dia_server` is `dia-server`."""

from dia_server.cli import main

if __name__ == "__main__":
    main()
