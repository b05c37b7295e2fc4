"""`python -m vestige` is `vestige`."""

from vestige.cli import main

if __name__ == "__main__":
    main()
