#!/usr/bin/env bash
# transformers' assisted generation does not stop at a stop string that lies inside an accepted run of tokens.
#
# Versions: transformers 5.23.0, torch 2.13.0.
# `generate(stop_strings=[...])` ends a greedy answer right after the stop string. With `prompt_lookup_num_tokens` the
# same call, greedy as well, goes on past it: the criterion is asked once a step, about the end of everything that the
# step accepted, so a stop string in the middle of the run is not seen. Whoever compares speeds with stop strings
# compares answers of unlike length.
# With `assistant_model` the call raises a ValueError that asks for a tokenizer, although one was given: it does not
# reach the assistant's own `generate`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0
env/bin/python - <<'PY'
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()
letters = [chr(code) for code in range(33, 97)]
bpe = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)

torch.manual_seed(0)
shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, eos_token_id=None, bos_token_id=None, **shape)).eval()


def answer(ids, **options):
    given = torch.tensor([ids])
    made = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=40, pad_token_id=0, **options
    )
    return made[0, len(ids) :].tolist()


# A random model falls into a cycle, which prompt lookup then guesses.
prompt = [5, 6, 7]
prompt += answer(prompt)[:28]
cycle = answer(prompt)[:10]
stop = cycle[4]
assert cycle[:5] == cycle[5:] and cycle.index(stop) == 4
options = dict(stop_strings=[letters[stop]], tokenizer=tokenizer)
greedy = answer(prompt, **options)
lookup = answer(prompt, prompt_lookup_num_tokens=8, **options)
try:
    assisted = answer(prompt, assistant_model=model, **options)
except ValueError as error:
    assisted = str(error)
print("greedy:       ", greedy)
print("prompt lookup:", lookup)
print("assistant:    ", assisted)
assert greedy == cycle[:5]
assert len(lookup) > 5 and lookup[:5] == greedy
assert "could not locate a tokenizer" in assisted
PY
