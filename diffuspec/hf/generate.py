"""DiffuSpec as a decoding method of transformers' `generate`.

    model.generate(**inputs, custom_generate=diffuspec_generate, drafter="mine:Recall", max_new_tokens=64)

`generate` prepares logits processors, stopping criteria and lengths as for its own methods. Each is asked here once
for every emitted token, in order, with exactly the text before it, so that an answer ends within an accepted run where
plain decoding would end it. Greedy answers are those of `do_sample=False`. A sample takes one draw of torch's generator
for a token, as plain sampling does: the same seed gives the same text.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, StopStringCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from diffuspec.engine import DiffuSpec, Run
from diffuspec.errors import PromptError, SettingsError
from diffuspec.method.acceptance import Verdict
from diffuspec.models.custom import is_custom
from diffuspec.models.drafter import Convention, DiffusionDrafter, NoDrafter
from diffuspec.models.pair import Pair, load_drafter
from diffuspec.models.ranking import RankedLogits
from diffuspec.models.target import Target
from diffuspec.models.vocabulary import names_of
from diffuspec.provenance import PairInfo
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.recorder import IMPOSSIBLE, Recorder
from diffuspec.trace.steps import Step

NAME = "transformers"  # of the pair, in traces
_ENDED = -1  # stands for the target's token behind the end of an answer
_IDLE = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "cache_position"}
_log = logging.getLogger(__name__)
# What took long to make for a model: drafters that were named, and what its passes cost. Nothing in it holds the model.
_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class DiffuSpecOutput(GenerateDecoderOnlyOutput):
    """What `return_dict_in_generate=True` gives: transformers' own fields, and the `trace` of the run."""

    trace: Trace | None = None


def diffuspec_generate(
    model: GenerationMixin,
    input_ids: torch.Tensor | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    drafter: DiffusionDrafter | str | Path | None = None,
    convention: Convention | Mapping[str, object] | None = None,
    settings: Settings | None = None,
    on_step: Callable[[Step], bool | None] | None = None,
    text_tokenizer=None,
    streamer: BaseStreamer | None = None,
    tokenizer=None,
    **kwargs,
) -> torch.Tensor | DiffuSpecOutput:
    """Generate by speculation; the arguments before the star, and other keywords, are those of `model.generate`.

    Pass it as `custom_generate` to `model.generate`, or call it in its place: `diffuspec_generate(model, **inputs,
    max_new_tokens=64)`. transformers 5.23 keeps its `tokenizer` from custom methods, so that `stop_strings` need
    the second way, or a `StopStringCriteria`.

    drafter: a `DiffusionDrafter`, or what `load_drafter` takes; by default drafts are copies of the text so far;
    convention: how a named drafter is read, as of `load_pair`; settings: of draft, search and length; what is sampled
    and how much stands in the generation config; on_step: told of each `Step`, True ends the run; text_tokenizer:
    spells the tokens of the trace. Batches of one only.
    Returns token ids [1, prompt + answer], or with `return_dict_in_generate` a `DiffuSpecOutput`.
    Raises `PromptError`, `SettingsError` and `PairError` for what cannot be done here.
    """
    own = dict(drafter=drafter, convention=convention, settings=settings, on_step=on_step)
    text_tokenizer = text_tokenizer if text_tokenizer is not None else tokenizer
    if hasattr(generation_config, "_eos_token_tensor"):  # `generate` has prepared everything and calls
        streamer = streamer or _streamer_of_caller(sys._getframe(1))
        return _decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            text_tokenizer=text_tokenizer,
            streamer=streamer,
            **own,
            **kwargs,
        )

    criteria = StoppingCriteriaList(stopping_criteria or ())
    ends = kwargs.pop("stop_strings", None) or getattr(generation_config, "stop_strings", None)
    if ends:
        if tokenizer is None:
            raise SettingsError("stop_strings need the tokenizer: give it as tokenizer=.")
        criteria.append(StopStringCriteria(tokenizer, ends))
        kwargs["stop_strings"] = None

    def decode(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        return _decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            text_tokenizer=text_tokenizer,
            streamer=streamer,
            **own,
            **kwargs,
        )

    return type(model).generate(
        model,
        input_ids,
        generation_config=generation_config,
        logits_processor=logits_processor,
        stopping_criteria=criteria,
        streamer=streamer,
        custom_generate=decode,
        **kwargs,
    )


def _streamer_of_caller(frame) -> BaseStreamer | None:
    """`generate` of transformers 5.23 gives its streamer the prompt and keeps it from custom methods: whoever reads
    from it would wait for ever."""
    generate = getattr(GenerationMixin.generate, "__wrapped__", GenerationMixin.generate)
    return frame.f_locals.get("streamer") if frame.f_code is generate.__code__ else None


def _decode(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    *,
    drafter,
    convention,
    settings,
    on_step,
    text_tokenizer,
    streamer,
    **model_kwargs,
):
    cache = None
    try:
        _refuse(model, input_ids, generation_config, settings, model_kwargs)
        ids, pads = _without_padding(input_ids, model_kwargs)
        pair = _pair(model, drafter, convention, generation_config, text_tokenizer)
        _remember_cost(model, pair, settings)
        run = _GenerateRun(pair, settings, ids, input_ids, logits_processor, stopping_criteria, generation_config)
        for step in run:
            if streamer is not None:
                for token in step.emitted:
                    streamer.put(torch.tensor([token]))
            if on_step is not None and on_step(step):
                run.stop()
            cache = run.cache
    finally:
        if streamer is not None:
            streamer.end()
    answer = torch.tensor([run.trace_tokens], dtype=input_ids.dtype, device=input_ids.device)
    sequences = torch.cat([input_ids, answer], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    if cache is not None and not pads:
        cache.crop(sequences.shape[1] - 1 - cache.get_seq_length())  # the newest token is not in it, as in generate's
    return DiffuSpecOutput(
        sequences=sequences,
        scores=run.scores,
        logits=run.raw_logits,
        past_key_values=None if pads else cache,
        trace=run.trace,
    )


def _refuse(model, input_ids, config: GenerationConfig, settings: Settings | None, model_kwargs: dict) -> None:
    """Say of what this method does not do what to do instead."""
    if model.config.is_encoder_decoder:
        raise PromptError("diffuspec_generate is for decoder-only models: this one has an encoder.")
    if (config.num_beams or 1) > 1:
        raise SettingsError("diffuspec_generate searches no beams over answers: leave num_beams out.")
    if len(input_ids) != 1:
        raise PromptError(
            f"diffuspec_generate decodes one text at a time, not {len(input_ids)}: call it once for each of them, with "
            "num_return_sequences=1."
        )
    for name in ("assistant_model", "prompt_lookup_num_tokens", "penalty_alpha", "dola_layers"):
        if getattr(config, name, None):
            raise SettingsError(f"{name} is another way to decode than diffuspec_generate: leave one of them out.")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise SettingsError(f"diffuspec_generate does not give {name.removeprefix('output_')}: leave {name} out.")
    if settings is not None and settings.temperature:
        raise SettingsError("Sampling is said to generate, not in the settings: do_sample=True, temperature=...")
    past = model_kwargs.get("past_key_values")
    if past is not None and past.get_seq_length():
        raise PromptError("diffuspec_generate reads the prompt anew: leave past_key_values out.")
    for name, value in model_kwargs.items():
        idle = name == "token_type_ids" and value is not None and not value.any()
        if value is not None and name not in _IDLE and not idle:
            raise PromptError(f"diffuspec_generate reads token ids only: leave {name} out.")


def _without_padding(input_ids: torch.Tensor, model_kwargs: dict) -> tuple[list[int], int]:
    """Token ids behind the padding on the left, and how many were padding."""
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    ids, pads = input_ids[0].tolist(), 0
    if mask is not None:
        seen = mask[0].tolist()
        pads = seen.index(1) if 1 in seen else len(seen)
        if not all(seen[pads:]):
            raise PromptError("The attention mask hides tokens within the prompt: mask only padding on its left.")
    if not ids[pads:]:
        raise PromptError("The prompt is empty: give at least one token.")
    if positions is not None and positions[0, pads:].tolist() != list(range(len(ids) - pads)):
        raise PromptError("diffuspec_generate counts positions from 0: leave position_ids out.")
    return ids[pads:], pads


class Nameless:
    """In the place of a tokenizer that nobody gave: tokens have ids and no texts."""

    added_tokens_decoder: dict = {}
    all_special_ids: list = []

    def convert_ids_to_tokens(self, token: int) -> None:
        return None

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def get_vocab(self) -> dict[str, int]:
        return {}


def _pair(model, drafter, convention, config: GenerationConfig, tokenizer) -> Pair:
    target, kept = Target.untouched(model), _kept.setdefault(model, {})
    name = drafter if isinstance(drafter, str | Path) else type(drafter).__name__
    if drafter is None:
        drafter, name = NoDrafter(), "none"
    elif isinstance(drafter, str | Path):
        key = (str(drafter), str(convention), model.device, model.dtype)
        drafter = kept.get(key)
        if drafter is None:
            drafter = load_drafter(name, target, _Names(model) if tokenizer is None else tokenizer, convention)
            if not is_custom(name):  # which may hold the target
                kept[key] = drafter
    if not drafter.max_block and not target.trees:
        raise SettingsError(
            "Without a drafter, drafts are trees of copies, which need attention masks of their own: load the model "
            'with attn_implementation="sdpa", or give a drafter.'
        )
    ends = config._eos_token_tensor
    info = PairInfo(
        name=NAME,
        target=name_of(model),
        drafter=str(name),
        drafter_kind=drafter.kind,
        dtype=target.arithmetic,
        device=str(model.device),
        context=target.context,
        max_draft=drafter.max_block,
        ngram=0,
        drafter_edition=drafter.edition,
    )
    ends = frozenset(() if ends is None else ends.flatten().tolist())
    return Pair(info, Nameless() if tokenizer is None else tokenizer, target, drafter, None, ends)


def name_of(model) -> str:
    """Its Hub id, or of a folder only the last part: a trace travels."""
    source = model.name_or_path
    return (Path(source).name if Path(source).exists() else source) or type(model).__name__


def _remember_cost(model, pair: Pair, settings: Settings | None) -> None:
    """Measure what passes cost once for a model and kind of drafter, where the settings weigh it."""
    if settings is not None and settings.length == "throughput":
        key = ("cost", pair.info.drafter, model.device, model.dtype)
        if key in _kept[model]:
            pair.__dict__["step_cost"] = _kept[model][key]
        _kept[model][key] = pair.step_cost


class _Names(Nameless):
    """Of a model whose tokenizer was not given: the names in its checkpoint, against which a drafter's are held."""

    def __init__(self, model):
        self.model = model

    def get_vocab(self) -> dict[str, int]:
        return dict(names_of(self.model.name_or_path) or {}) if self.model.name_or_path else {}


class _Recorder(Recorder):
    """Writes down the scores that tokens were chosen by; rows that nobody chose from are the model's own."""

    scores: dict[int, torch.Tensor]

    def _as_sampled(self, logits: RankedLogits) -> RankedLogits:
        if not self.scores:
            return logits
        values = logits.values.clone()
        for row, scores in self.scores.items():
            values[row] = scores.to(values.device).clamp_min(IMPOSSIBLE)
        return RankedLogits(values)


class _GenerateRun(Run):
    """A run whose tokens are chosen as `generate` would choose them.

    Verification asks for one token after the other along the path, each emitted, so that processors and criteria see
    what they see in plain decoding.
    """

    def __init__(self, pair: Pair, settings, ids, input_ids, processors, criteria, config: GenerationConfig):
        self.config, self.processors = config, processors
        settings = settings or _usual(pair)
        if config.do_sample:
            if settings.rule != "point-mass":
                raise SettingsError(f"rule = {settings.rule} is not possible here: use rule = point-mass.")
            settings = settings.replace(**_sampling(config))
        wanted = config.max_length - input_ids.shape[1]
        settings = settings.replace(max_new_tokens=min(wanted, Settings.knobs()["max_new_tokens"].high))
        super().__init__(pair, DiffuSpec(pair, settings).settings, ids)
        room = pair.room(ids)
        if wanted > room:
            _log.warning("%s holds %d tokens: the answer ends there.", pair.info.target, pair.info.context)
        self.budget = min(wanted, room)
        self.recorder = _Recorder(pair, self.settings, None, ids)
        # The others are met by `stop_ids` and `budget`, without a word to the device.
        self.criteria = [c for c in criteria if not isinstance(c, EosTokenCriteria | MaxLengthCriteria)]
        self.text, self.chosen_from, self.ended = input_ids, {}, False
        self.scores = () if config.return_dict_in_generate and config.output_scores else None
        self.raw_logits = () if config.return_dict_in_generate and config.output_logits else None

    @property
    def trace_tokens(self) -> list[int]:
        return [token for step in self.recorder.steps for token in step.emitted]

    def chooser(self, logits: RankedLogits) -> Callable[[int], int]:
        self.recorder.scores = {}
        plain = not self.config.do_sample and self.scores is None and self.raw_logits is None
        if plain and not self.processors and not self.criteria:
            return super().chooser(logits)
        rows = logits.values.to(self.text.device, torch.float32)

        def choose(row: int) -> int:
            if self.ended:
                return _ENDED
            raw = rows[row : row + 1].clone()
            scores = self.processors(self.text, raw.clone() if self.raw_logits is not None else raw)
            if self.config.do_sample:
                token = torch.multinomial(scores.softmax(-1), 1)
            else:
                token = scores.argmax(-1, keepdim=True)
            if self.processors:
                self.recorder.scores[row] = scores[0]
            if self.scores is not None:
                self.scores += (scores,)
            if self.raw_logits is not None:
                self.raw_logits += (raw,)
            self.text = torch.cat([self.text, token.to(self.text.dtype)], dim=1)
            self.ended = any(bool(c(self.text, self.scores).all()) for c in self.criteria)
            return int(token)

        return choose

    def verify(self, lattice, path, logits) -> Verdict:
        verdict = super().verify(lattice, path, logits)
        if verdict.token != _ENDED:
            return verdict
        return Verdict(verdict.accepted, None, None, verdict.draws[:-1], verdict.nodes)

    def commit(self, path, verdict: Verdict) -> tuple[int, ...]:
        emitted = super().commit(path, verdict)
        if self.ended and self.stop_reason == "running":
            self.stop_reason = "stopping criterion"
        return emitted


def _usual(pair: Pair) -> Settings:
    """As the pair's, but nothing is measured before the first answer."""
    if pair.drafter.max_block:
        return pair.settings
    return Settings(search="tree", length="fixed", proxy="context", nodes=10)


def _sampling(config: GenerationConfig) -> dict[str, float]:
    """What the trace's header says of the sampling, within the bounds of its knobs; the processors do it."""
    asked = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    knobs = Settings.knobs()
    within = {name: np.clip(value, knobs[name].low, knobs[name].high) for name, value in asked.items() if value}
    return {name: knobs[name].parse(float(value)) for name, value in {"temperature": 1.0, **within}.items()}
