#!/usr/bin/env bash
# transformers makes a tokenizer of one token for a checkpoint's folder that holds none.
#
# Version: transformers 5.23.0.
# `AutoTokenizer.from_pretrained(folder)` on a folder with a config.json (model_type qwen3) and no tokenizer file. One
# would expect the error that it gives for a folder without a config. Seen: a Qwen2 tokenizer with one token, no error.
# Every text becomes an empty or a one-token prompt, and the model answers that. Weights that were saved without their
# tokenizer, as conversion scripts do, look like a model that ignores its prompt.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 tokenizers==0.23.3
mkdir checkpoint nothing
echo '{"model_type": "qwen3"}' > checkpoint/config.json
env/bin/python - <<'PY'
from transformers import AutoTokenizer

made = AutoTokenizer.from_pretrained("checkpoint")
print(type(made).__name__, "with", len(made), "token:", made.get_vocab())
print("Hello, world ->", made("Hello, world").input_ids)
assert len(made) == 1 and len(made("Hello, world").input_ids) <= 1
try:
    AutoTokenizer.from_pretrained("nothing")
except (OSError, ValueError) as error:
    print("without a config:", type(error).__name__)
else:
    raise SystemExit("a folder without a config is taken as well now")
PY
