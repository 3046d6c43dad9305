"""The playground: `python app.py` is `python -m diffuspec app`, and the entry point of a Hugging Face Space."""

import sys

from diffuspec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
