"""The command line of `python -m diffuspec train STAGE`: one stage after the other, each of them resumable."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

from diffuspec.cli.options import check_outputs, positive
from diffuspec.errors import DiffuSpecError, SettingsError

STAGES = """\
The stages, in their order (each goes on where it was stopped, and --help explains it):

  text        collect real text from unpacked packages        ->  text.jsonl.gz
  questions   make prompts from BIG-bench's tasks             ->  questions.jsonl
  code        make prompts about code from Python packages    ->  questions.jsonl
  synthesise  the target answers prompts made from either     ->  a folder of shards
  import      take over single turns answered elsewhere       ->  the same; `cache` follows
  overlap     check the prompts against a question file
  cache       the target's keys and values, where missing     ->  the same folder
  drafter     train layers of the target into a drafter       ->  a run folder, the drafter in it
  evaluate    what drafters foresee of held-out answers, or of a question file's
  pack        store its matrices in 8 bits                    ->  assets/drafter
  ngram       fit the causal proxy on the answers             ->  assets/ngram

On two cores half an hour of synthesis and an hour of training give a drafter that is worth trying:

  apt-get download manpages-de debian-handbook dict-foldoc fortunes && for p in *.deb; do
      dpkg-deb -x $p unpacked/${p%%_*}; done
  python -m diffuspec train text unpacked/* --out text.jsonl.gz
  python -m diffuspec train synthesise --text text.jsonl.gz --out data --tokens 500000 --layers 0,1,11,21,27,29
  python -m diffuspec train drafter data --layers 0,1,11,21,27,29 --out run --steps 4000
  python -m diffuspec train pack run/drafter --out assets/drafter
  python -m diffuspec train ngram --answers data --out assets/ngram/3.npz
"""

QUESTION_LIMIT = 128


def add_stages(parser: argparse.ArgumentParser, progress: Callable[[], Callable]) -> None:
    """progress: makes a callback (fraction or None, message), with `close()`."""
    parser.epilog, parser.formatter_class = STAGES, argparse.RawDescriptionHelpFormatter
    stages = parser.add_subparsers(required=True, metavar="STAGE")

    def stage(name: str, help: str, command: Callable) -> argparse.ArgumentParser:
        made = stages.add_parser(name, help=help, description=help, allow_abbrev=False)
        made.set_defaults(command=lambda arguments: _begin(command, arguments, progress))
        return made

    text = stage("text", "collect prose of several languages from unpacked packages", _text)
    text.add_argument(
        "folders", metavar="FOLDER", type=Path, nargs="+", help="one package each; its name is the source"
    )
    text.add_argument("--out", metavar="FILE.jsonl.gz", type=Path, required=True)

    asks = stage("questions", "make prompts of five families from BIG-bench's tasks, for `synthesise`", _questions)
    asks.add_argument("folder", metavar="FOLDER", type=Path, help="the source package `bigbench`, unpacked")
    asks.add_argument("--out", metavar="FILE.jsonl", type=Path, required=True, help="in Spec-Bench's format")
    asks.add_argument(
        "--avoid",
        metavar="FILE.jsonl",
        type=Path,
        required=True,
        help="questions that measure the drafter: what is like one of them is left out",
    )
    asks.add_argument(
        "--shares",
        metavar="CATEGORY=N,...",
        type=_shares,
        help="the most of each (default: all there are): translation, summarization, qa, rag, math_reasoning",
    )
    asks.add_argument("--seed", metavar="N", type=int, default=0)

    code = stage("code", "make prompts about code from Python packages, for `synthesise`", _code)
    code.add_argument(
        "folders", metavar="FOLDER", type=Path, nargs="+", help="packages whose functions are asked about"
    )
    code.add_argument("--out", metavar="FILE.jsonl", type=Path, required=True, help="in Spec-Bench's format")
    code.add_argument(
        "--avoid",
        metavar="FILE.jsonl",
        type=Path,
        required=True,
        nargs="+",
        help="questions that measure the drafter: what is like one of them is left out",
    )
    code.add_argument("--mbpp", metavar="FILE.jsonl", type=Path, help="MBPP's problems, asked as well")
    code.add_argument("--count", metavar="N", type=positive, default=20_000, help="at most (default %(default)s)")
    code.add_argument("--seed", metavar="N", type=int, default=0)

    synth = stage("synthesise", "let the target answer prompts of all families, greedily, many at once", _synthesise)
    synth.add_argument(
        "--text",
        metavar="FILE.jsonl.gz",
        type=Path,
        help="what `train text` wrote; without it, only prompts from templates and those that the target makes up",
    )
    synth.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="shards are added to what is there")
    much = synth.add_mutually_exclusive_group(required=True)
    much.add_argument("--tokens", metavar="N", type=int, help="answer tokens the folder shall hold")
    much.add_argument(
        "--questions",
        metavar="FILE.jsonl",
        type=Path,
        help="answer these, in Spec-Bench's format: to "
        "train on your own or those of `questions`; a benchmark's are for `evaluate` alone",
    )
    synth.add_argument("--stride", metavar="N", type=int, default=1, help="every N-th question (default 1)")
    synth.add_argument("--slots", metavar="N", type=int, default=32, help="conversations at once (default %(default)s)")
    synth.add_argument(
        "--capacity",
        metavar="N",
        type=int,
        default=1700,
        help="longest conversation in tokens; longer prompts are left out (default 1700)",
    )
    synth.add_argument(
        "--layers",
        metavar="I,J,...",
        type=_numbers,
        default=(),
        help="keep the target's keys and values of these layers, so that `cache` need not",
    )
    synth.add_argument(
        "--shares",
        metavar="FAMILY=N,...",
        type=_shares,
        help="how often each family is asked (default: translation=24, ...)",
    )
    _arithmetic(synth)
    _common(synth)

    turns = stage("import", "take over single turns that were answered elsewhere, with the target's top 8", _import)
    turns.add_argument(
        "turns",
        metavar="FILE.jsonl[.gz]",
        type=Path,
        help='token ids of a user\'s turn in "u", of its greedy answer in "r"',
    )
    turns.add_argument(
        "--top8",
        metavar="FILE.bin",
        type=Path,
        required=True,
        help="answer by answer: n x 8 uint16 ids, then n x 8 float16 probabilities",
    )
    turns.add_argument("--family", metavar="NAME", default="chat", help="what to call them (default %(default)s)")
    turns.add_argument("--stride", metavar="N", type=int, default=1, help="every N-th turn (default 1)")
    turns.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="`cache` has to follow")
    _common(turns, seed=False)

    check = stage("overlap", "list prompts that share a run of words with a question file; status 1 if any", _overlap)
    check.add_argument("data", metavar="FOLDER", type=Path, nargs="+")
    check.add_argument("--questions", metavar="FILE.jsonl", type=Path, required=True, help="in Spec-Bench's format")
    check.add_argument("--words", metavar="N", type=int, default=8, help="length of a run (default %(default)s)")
    _common(check)

    cache = stage("cache", "compute the target's keys and values for shards that lack them", _cache)
    cache.add_argument("data", metavar="FOLDER", type=Path)
    cache.add_argument("--layers", metavar="I,J,...", type=_numbers, required=True)
    _arithmetic(cache)
    _common(cache)

    drafter = stage("drafter", "train layers of the target into a block-diffusion drafter", _drafter)
    drafter.add_argument("data", metavar="FOLDER", type=Path, nargs="+", help="shards of answers, with caches")
    drafter.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="the run: checkpoint.pt, curve.jsonl, and drafter/ at every evaluation",
    )
    drafter.add_argument(
        "--kind",
        choices=("target-conditioned", "standalone"),
        default="target-conditioned",
        help="reads the target's cache, or the text itself (default %(default)s)",
    )
    drafter.add_argument(
        "--layers",
        metavar="I,J,...",
        type=_numbers,
        help="the target's layers to start from (default: 6 of them, spread)",
    )
    drafter.add_argument(
        "--inner",
        metavar="N",
        type=int,
        help="channels of the layers' feed-forwards that are kept "
        "(default: all); fewer make room for more layers at the same cost",
    )
    drafter.add_argument("--from", metavar="FOLDER", type=Path, dest="start", help="start from this drafter's weights")
    drafter.add_argument(
        "--vocabulary",
        metavar="N",
        type=int,
        default=22_000,
        help="tokens that the drafter can name, the most frequent ones, besides those that --from "
        "could name already (default 22000)",
    )
    drafter.add_argument("--max-block", metavar="N", type=int, default=32, help="largest k (default %(default)s)")
    drafter.add_argument("--save-every", metavar="STEPS", type=int, default=50)
    drafter.add_argument("--evaluate-every", metavar="STEPS", type=int, default=200)
    drafter.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=1,
        help="parts of a step at work at once; "
        "with --threads 1 each has a core of its own, which a busy machine bears best",
    )
    _common(drafter, seed=False)
    _recipe(drafter.add_argument_group("recipe"))

    judge = stage("evaluate", "tokens that drafters foresee of the target's answers, by family", _evaluate)
    judge.add_argument("drafters", metavar="DRAFTER", type=Path, nargs="+", help="folders of exported drafters")
    judge.add_argument("--data", metavar="FOLDER", type=Path, nargs="+", required=True, help="shards with caches")
    judge.add_argument("--held-out", action="store_true", help="of the data only what `drafter` does not train on")
    judge.add_argument("--anchors", metavar="N", type=int, default=4, help="blocks of a conversation (default 4)")
    judge.add_argument("--k", metavar="N", type=int, default=16, help="rows of a block (default 16)")
    _common(judge, seed=False)

    ngram = stage("ngram", "fit the causal proxy, a token 3-gram, on the target's answers", _ngram)
    ngram.add_argument(
        "--answers",
        metavar="PATH",
        type=Path,
        required=True,
        nargs="+",
        help='folders of shards, or JSON Lines, plain or gzip, with token ids in "r"',
    )
    ngram.add_argument("--out", metavar="FILE.npz", type=Path, required=True)
    ngram.add_argument(
        "--target",
        metavar="MODEL",
        help="whose token ids these are: a folder, Hub id or FILE.gguf; "
        "its weights are not read (default: the embedded target)",
    )

    pack = stage("pack", "store a block drafter's matrices in 8 bits", _pack)
    pack.add_argument(
        "sources",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        help="holds config.json and model.safetensors; of several, the mean of their weights is taken",
    )
    pack.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    pack.add_argument(
        "--vocabulary",
        metavar="N",
        type=int,
        help="keep the N draft tokens most frequent in --data "
        "(and those that end an answer), which makes a draft pass faster",
    )
    pack.add_argument("--data", metavar="FOLDER", type=Path, nargs="+", help="shards of answers to count them in")
    _common(pack, seed=False)


def _begin(command: Callable, arguments: argparse.Namespace, progress: Callable[[], Callable]):
    """Carry out a stage, unless it would write a file over one that it reads. Raises `DiffuSpecError`."""
    options = vars(arguments)
    out = options.get("out")
    if out is not None and out.suffix in (".gz", ".jsonl", ".npz"):
        given = [value for name, value in options.items() if name != "out"]
        read = [part for value in given for part in (value if isinstance(value, list) else [value])]
        check_outputs([out], [path for path in read if isinstance(path, Path)])
    return command(arguments, progress())


def _arithmetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("int8", "float32", "bfloat16"),
        help="the target's arithmetic (default: int8, as the embedded target decodes, where machine and layout allow "
        "it; bfloat16 on a GPU)",
    )


def _common(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    parser.add_argument(
        "--target",
        metavar="MODEL",
        help="folder or Hub id of a causal LM of a Llama or Qwen layout, "
        "or a GGUF file of one (default: the embedded target)",
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--device",
        metavar="NAME",
        default="cpu",
        help="where it computes: cpu, cuda, cuda:1, mps (default %(default)s)",
    )
    if seed:
        parser.add_argument("--seed", metavar="N", type=int, default=0)


def _recipe(group: argparse._ArgumentGroup) -> None:
    meanings = {
        "steps": "optimiser steps",
        "conversations": "conversations a step",
        "anchors": "blocks of 16 rows of each",
        "lr": "peak learning rate",
        "warmup": "steps up to it",
        "weight_decay": "of the matrices",
        "clip": "largest gradient norm",
        "soft": "weight of the target's probabilities against its greedy token",
        "decay": "rows after which a row's weight has fallen to 1/e",
        "filled": "share of partly filled blocks",
        "visited": "share of blocks that begin where decoding with the first drafter would have begun one, after its "
        "errors, instead of anywhere",
        "reach": "share of a row's weight that is the probability of all rows before it, instead of its place alone",
        "average": "of the weights, per step",
        "negatives": "tokens sampled for the normaliser of the logits, which is the costliest product of a step",
        "balance": "1: draw families alike; 0: conversations alike",
        "bf16": "1: products of a step in bfloat16, which is twice as fast where the processor knows it (AVX512-BF16); "
        "0: float32",
        "seed": "of everything that is drawn",
    }
    from diffuspec.training.recipe import Recipe

    for field in dataclasses.fields(Recipe):
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            metavar="N",
            default=field.default,
            dest=field.name,
            type=int if isinstance(field.default, int) else float,
            help=f"{meanings[field.name]} (default {field.default:g})",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _shares(text: str) -> dict[str, int]:
    return {name: int(share) for name, _, share in (part.partition("=") for part in text.split(","))}


def _load(arguments: argparse.Namespace, progress: Callable):
    """(model in float32 as transformers has it, tokenizer, ids that end an answer)."""
    import torch
    from transformers import AutoTokenizer

    from diffuspec.models.embedded import embedded_target
    from diffuspec.models.presets import is_gguf
    from diffuspec.models.target import stock_model
    from diffuspec.models.vocabulary import stop_ids

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    source, device = arguments.target or embedded_target(progress), _device(arguments.device)
    if is_gguf(source):
        file, tokenizer, ends = _open_gguf(source)
        return stock_model(source, torch.float32).to(device), tokenizer, ends
    try:
        model = stock_model(source, torch.float32).to(device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise DiffuSpecError(
            f"The target {source} could not be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
    return model, tokenizer, stop_ids(model, tokenizer)


def _device(name: str):
    """The torch device of this name. Raises `DiffuSpecError` where this machine has none."""
    import torch

    from diffuspec.models.devices import this_device

    return torch.device(this_device(name).name)


def _open_gguf(source):
    """(GGUF, tokenizer, ids that end an answer)."""
    from diffuspec.models.gguf.file import GGUF
    from diffuspec.models.gguf.tokenizer import end_ids, tokenizer_of

    file = GGUF(source)
    return file, tokenizer_of(file), end_ids(file)


def _load_slots(arguments: argparse.Namespace, count: int, capacity: int, progress: Callable):
    """(slots, tokenizer, ids that end an answer); a GGUF file is computed as it is."""
    import torch

    from diffuspec.models.presets import is_gguf

    on_cpu = _device(arguments.device).type == "cpu"
    if is_gguf(arguments.target) and on_cpu and arguments.dtype in (None, "int8"):
        from diffuspec.models.gguf.decoder import decoder
        from diffuspec.training.slots import CompiledSlots

        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        file, tokenizer, ends = _open_gguf(arguments.target)
        return CompiledSlots(decoder(file, progress), count, capacity), tokenizer, ends
    model, tokenizer, ends = _load(arguments, progress)
    return _slots(model, count, capacity, arguments.dtype), tokenizer, ends


def _slots(model, count: int, capacity: int, dtype: str | None):
    """Slots in this arithmetic; by default in int8 where machine and model allow it."""
    from diffuspec.models.float.llama import llama_fits
    from diffuspec.models.float.packed import pack_linears, packed_fits
    from diffuspec.models.int8.decoder import Int8Decoder, int8_fits
    from diffuspec.training.slots import CompiledSlots, StockSlots

    on_cpu = model.device.type == "cpu"
    fits = on_cpu and llama_fits(model) and int8_fits()
    if dtype == "int8" and not fits:
        raise DiffuSpecError("8-bit arithmetic needs a Llama on a CPU: use --dtype float32.")
    if fits and dtype in (None, "int8"):
        return CompiledSlots(Int8Decoder(model), count, capacity)
    if dtype == "bfloat16" or (dtype is None and not on_cpu):
        model = model.bfloat16()
    if packed_fits(model.dtype, model.device):
        pack_linears(model)
    return StockSlots(model, count, capacity)


def _folders(paths: list[Path]):
    from diffuspec.training.data import DataFolder

    folders = [DataFolder(path) for path in paths]
    for folder in folders:
        if not folder.shards():
            raise DiffuSpecError(f"{folder.path} holds no shards: `train synthesise` writes them.")
    return folders


def _text(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.training import text

    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        raise DiffuSpecError(f"{missing[0]} is not a folder.")
    n = text.save(text.collect(arguments.folders), arguments.out)
    print(f"{n} passages in {arguments.out}")


def _questions(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.measure.questions import read_questions
    from diffuspec.training.bigbench import questions
    from diffuspec.training.overlap import Kept

    kept = Kept(turn for question in read_questions(arguments.avoid).questions for turn in question.turns)
    made, rows, left_out = questions(arguments.folder, arguments.seed), [], 0
    unknown = set(arguments.shares or ()) - set(made)
    if unknown:
        raise SettingsError(f"--shares: the categories are {', '.join(made)}.")
    for category, prompts in made.items():
        fit = [prompt for prompt in prompts if not kept.out(prompt)]
        left_out += len(prompts) - len(fit)
        rows += [(category, prompt) for prompt in fit[: (arguments.shares or {}).get(category)]]
    random.Random(arguments.seed).shuffle(rows)
    progress.close()
    with open(arguments.out, "w", encoding="utf-8") as file:
        for i, (category, prompt) in enumerate(rows):
            row = {"question_id": i, "category": category, "turns": [prompt]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(rows)} questions in {arguments.out}; {left_out} were too like one in {arguments.avoid.name}")


def _code(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.measure.questions import read_questions
    from diffuspec.training.code import questions

    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        raise DiffuSpecError(f"{missing[0]} is not a folder.")
    avoid = [turn for path in arguments.avoid for q in read_questions(path).questions for turn in q.turns]
    rows = questions(arguments.folders, arguments.mbpp, avoid, arguments.seed, arguments.count)
    progress.close()
    with open(arguments.out, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(rows)} questions in {arguments.out}")


def _synthesise(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.measure.questions import read_questions
    from diffuspec.training import prompts, text
    from diffuspec.training.data import DataFolder
    from diffuspec.training.synthesis import Synthesis, answer_all, synthesise

    shares = arguments.shares or dict(prompts.SHARES)
    if not set(shares) <= set(prompts.SHARES):
        raise SettingsError(f"--shares: the families are {', '.join(prompts.SHARES)}.")
    passages = text.load(arguments.text) if arguments.text else []
    questions = read_questions(arguments.questions).chosen(arguments.stride).questions if arguments.questions else ()
    slots, tokenizer, stops = _load_slots(arguments, arguments.slots, arguments.capacity, progress)
    synthesis = Synthesis(slots, tokenizer, stops, keep_layers=arguments.layers, seed=arguments.seed)
    folder = DataFolder(arguments.out)
    if questions:
        answer_all(synthesis, prompts.asked(questions, QUESTION_LIMIT), folder, progress)
    else:
        synthesise(synthesis, prompts.Prompts(passages, arguments.seed, shares), folder, arguments.tokens, progress)
    progress.close()
    print(f"{folder.answer_tokens()} answer tokens in {len(folder.shards())} shards in {arguments.out}")


def _import(arguments: argparse.Namespace, progress: Callable) -> None:
    from itertools import islice

    from diffuspec.training.data import DataFolder
    from diffuspec.training.synthesis import ChatFrame
    from diffuspec.training.turns import read_turns

    folder = DataFolder(arguments.out)
    if folder.shards():
        raise DiffuSpecError(f"{arguments.out} holds shards already: use a new folder.")
    _, tokenizer, _ = _load(arguments, progress)
    progress.close()
    turns = read_turns(arguments.turns, arguments.top8, ChatFrame(tokenizer), arguments.family)
    with folder.writer() as writer:
        for conversation in islice(turns, 0, None, arguments.stride):
            writer.add(conversation)
    print(f"{folder.answer_tokens()} answer tokens in {len(folder.shards())} shards in {arguments.out}")


def _overlap(arguments: argparse.Namespace, progress: Callable) -> int:
    from diffuspec.measure.questions import read_questions
    from diffuspec.training.overlap import shared

    questions = [turn for question in read_questions(arguments.questions).questions for turn in question.turns]
    _, tokenizer, _ = _load(arguments, progress)
    progress.close()
    conversations = [c for folder in _folders(arguments.data) for c in folder.conversations()]
    found = list(shared(conversations, questions, tokenizer, arguments.words))
    for conversation, ngram in found:
        print(f"prompt {conversation.number} ({conversation.family}): {ngram}")
    print(f"{len(found)} of {len(conversations)} prompts share {arguments.words} words in a row with a question")
    return int(bool(found))


def _cache(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.training import caches

    (folder,) = _folders([arguments.data])
    longest = max(len(c.ids) for c in folder.conversations())
    read = caches.fill(_load_slots(arguments, 1, longest, progress)[0], folder, arguments.layers, progress)
    progress.close()
    print(f"{read} tokens read, {sum(folder.cache_path(s).exists() for s in folder.shards())} caches in {folder.path}")


def _drafter(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.training import adapt
    from diffuspec.training.network import DrafterNetwork, export, spread_layers
    from diffuspec.training.recipe import Recipe

    folders = _folders(arguments.data)
    model, tokenizer, stops = _load(arguments, progress)
    layers = arguments.layers or spread_layers(model.config.get_text_config().num_hidden_layers, 6)
    if arguments.kind == "target-conditioned" and any(folder.layers != tuple(layers) for folder in folders):
        raise DiffuSpecError(f"The data holds no caches of the layers {list(layers)}: run `train cache` first.")
    conversations = [c for folder in folders for c in folder.conversations()]
    eos = adapt.end_of_turn(conversations, stops)
    always = [eos, *(adapt.vocabulary_of(arguments.start).tolist() if arguments.start else ())]
    vocabulary = adapt.draft_vocabulary(conversations, arguments.vocabulary, always)
    network = DrafterNetwork(model, layers, vocabulary, arguments.kind, arguments.inner)
    if arguments.start:
        network.start_from(arguments.start)
    network.move(model.device)
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)})
    trainer = adapt.Trainer(network, conversations, stops, eos, recipe, arguments.out)

    def keep() -> None:
        export(
            network,
            trainer.average,
            arguments.out / "drafter",
            name=str(arguments.target or "SmolLM2-135M-Instruct"),
            max_block=arguments.max_block,
            eos=eos,
        )

    trainer.run(arguments.save_every, arguments.evaluate_every, progress, keep, arguments.workers)
    progress.close()
    print(f"step {trainer.step}, {trainer.rows} rows; the drafter is in {arguments.out / 'drafter'}")


def _evaluate(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.training import adapt
    from diffuspec.training.network import DrafterNetwork, shape_of

    folders = _folders(arguments.data)
    model, _, stops = _load(arguments, progress)
    progress.close()
    conversations = [c for folder in folders for c in folder.conversations()]
    eos = adapt.end_of_turn(conversations, stops)
    if arguments.held_out:
        _, conversations = adapt.split(conversations)
    for drafter in arguments.drafters:
        layers, inner = shape_of(drafter)
        if any(folder.layers != layers for folder in folders):
            raise DiffuSpecError(f"{drafter} reads layers {list(layers)}, the data's caches hold others.")
        network = DrafterNetwork(model, layers, adapt.vocabulary_of(drafter), inner=inner)
        network.start_from(drafter)
        network.move(model.device)
        figures = adapt.acceptance(network, conversations, stops, eos, k=arguments.k, blocks_each=arguments.anchors)
        print(f"{drafter}: {adapt.summary(figures)}")


def _ngram(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.training import ngram

    answers = []
    for path in arguments.answers:
        if path.is_dir():
            answers += [a for folder in _folders([path]) for c in folder.conversations() for a in c.answers]
        else:
            answers += ngram.read_answers(path)
    vocabulary, before = _frame(arguments.target, progress)
    progress.close()
    table = ngram.fit(answers, vocabulary, before)
    table.save(arguments.out)
    size = arguments.out.stat().st_size / 2**20
    print(f"{len(table.keys2)} bigrams and {len(table.keys3)} trigrams in {arguments.out} ({size:.1f} MB)")


def _frame(target: str | None, progress: Callable) -> tuple[int, tuple[int, int]]:
    """(token ids that the target has rows for, the two that stand before an answer); its weights are not read."""
    from transformers import AutoConfig, AutoTokenizer

    from diffuspec.models.embedded import embedded_gguf
    from diffuspec.models.gguf.decoder import shape_of
    from diffuspec.models.gguf.file import GGUF
    from diffuspec.models.gguf.tokenizer import tokenizer_of
    from diffuspec.models.target import told

    target = target or str(embedded_gguf(progress))
    if target.lower().endswith(".gguf"):
        file = GGUF(Path(target))
        rows, tokenizer = shape_of(file).vocab_size, tokenizer_of(file)
    else:
        with told(f"The target {target}"):
            rows = AutoConfig.from_pretrained(target).get_text_config().vocab_size
            tokenizer = AutoTokenizer.from_pretrained(target)
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "x"}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer("x x").input_ids
    return rows, tuple([ids[0], *ids][-2:])


def _pack(arguments: argparse.Namespace, progress: Callable) -> None:
    from diffuspec.models.drafter import pack_folder
    from diffuspec.training import adapt

    if (arguments.vocabulary is None) != (arguments.data is None):
        raise SettingsError("--vocabulary and --data go together.")
    tokens = None
    if arguments.data:
        conversations = [c for folder in _folders(arguments.data) for c in folder.conversations()]
        _, _, stops = _load(arguments, progress)
        tokens = adapt.draft_vocabulary(conversations, arguments.vocabulary, [adapt.end_of_turn(conversations, stops)])
    before, after = pack_folder(arguments.sources[0], arguments.out, tokens, arguments.sources[1:])
    progress.close()
    print(f"{before / 2**20:.1f} MB -> {after / 2**20:.1f} MB in {arguments.out}")
