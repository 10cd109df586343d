"""Sampling of text whose randomness belongs to the example, not to the batch.

Prompts are read in one go, without padding; their keys and values are kept, and each further token of all texts is one
short stream. Texts that have ended leave, so the last steps read the few that are long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gptfluence.dynamics.cuts import Budget, cut_by_length
from gptfluence.dynamics.packing import Attention, Pack, Reader, Stream, within_budget
from gptfluence.randomness import named_generator

# How many of the likeliest tokens are looked at, until they are the nucleus: to sort them all takes long.
_LIKELIEST = (16, 256)
# Texts that have ended are computed on until they are one in so many of those held: to let them go costs a copy.
_STAY = 8


def sampling_numbers(seed: int, task: str, step: int, example: int, tokens: int) -> np.ndarray:
    """Return uniform numbers [tokens] that depend only on (seed, task, step, example, position)."""
    return named_generator("generation", seed, task, step, example).random(tokens)


def choose_tokens(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Sample one token a row by inverting the cumulative distribution of the nucleus.

    The nucleus is the smallest set of the likeliest tokens whose probability reaches `top_p` (Holtzman et al., 2020).

    Args:
        logits: [batch, vocabulary].
        uniform: [batch], in [0, 1).

    Returns:
        [batch] token ids.
    """
    logits = logits.float()
    highest, chosen = logits.max(-1, keepdim=True)
    total = (logits - highest).div_(temperature).exp_().sum(-1, keepdim=True)
    chosen = chosen[:, 0]
    # Most often the likeliest token alone is the nucleus; seldom is it not among the likeliest few.
    open_ = (1 / total[:, 0] < top_p).nonzero()[:, 0]
    for size in (*(size for size in _LIKELIEST if size < logits.shape[1]), logits.shape[1]):
        if not len(open_):
            break
        value, token = logits[open_].topk(size, dim=-1)
        probability = ((value - highest[open_]) / temperature).exp().double() / total[open_]
        cumulative = probability.cumsum(-1)
        nucleus = torch.where(cumulative - probability < top_p, probability, 0.0)
        reached = nucleus.cumsum(-1)
        below = (reached <= uniform[open_, None] * reached[:, -1:]).sum(-1)
        chosen[open_] = token.gather(1, below.clamp(max=size - 1)[:, None])[:, 0]
        open_ = open_[cumulative[:, -1] < top_p]
    return chosen


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature, top_p: of the distribution that is drawn from.
        end: id of the end-of-text token.
    """

    temperature: float
    top_p: float
    end: int


@dataclass(frozen=True)
class Texts:
    """The texts of one run that are sampled together.

    Attributes:
        prompts: token ids.
        uniform: [texts, most tokens]; see `sampling_numbers`.
        limits: most new tokens of each.
    """

    prompts: Sequence[Sequence[int]]
    uniform: np.ndarray
    limits: Sequence[int]


@torch.no_grad()  # not inference_mode: there, weights would be cast to bf16 anew at every call
def generate(
    readers: Callable[[Sequence[int]], Reader],
    runs: Sequence[Texts],
    sampling: Sampling,
    budget: Budget,
    device: torch.device,
) -> list[list[list[int]]]:
    """Sample a continuation of each text of each run, all together.

    Args:
        readers: given some runs' numbers, returns what reads streams of as many packs.
        budget: of the prompts that are read in one go.

    Returns:
        The new token ids of each text, by run; with the end-of-text token, where that came before the limit.
    """
    held = [_Held(texts, sampling, device) for texts in runs]
    rounds = [run.packs(budget) for run in held]
    for i in range(max(map(len, rounds))):
        packs = [(number, packs[i]) for number, packs in enumerate(rounds) if i < len(packs)]
        for part in within_budget(packs, budget):
            _read_prompts(readers, held, part, sampling, device)
    everybody = readers(range(len(held)))
    while any([run.let_go() for run in held]):
        stream = _next_tokens(held, device)
        numbers = torch.from_numpy(np.concatenate([run.numbers() for run in held])).to(device)
        tokens = choose_tokens(everybody(stream), numbers, sampling.temperature, sampling.top_p).tolist()
        for run in held:
            run.append(tokens[: len(run.rows)])
            del tokens[: len(run.rows)]
    return [run.sampled for run in held]


class _Held:
    """The texts of one run that are under way, and the keys and values of what they have read.

    Attributes:
        sampled: the new tokens of each text so far.
        rows: the texts held, in the order of the cache.
        cache: by layer, keys and values: [rows, key heads, most tokens, size] each.
        lengths: [rows]; how many tokens the cache has of each.
    """

    def __init__(self, texts: Texts, sampling: Sampling, device: torch.device) -> None:
        self._texts, self._sampling, self._device = texts, sampling, device
        self.sampled: list[list[int]] = [[] for _ in texts.prompts]
        self.rows: list[int] = []
        self.cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.lengths = np.empty(0, np.int64)
        self._most = max(len(prompt) + limit for prompt, limit in zip(texts.prompts, texts.limits, strict=True))

    def packs(self, budget: Budget) -> list[Pack]:
        """Return the prompts, cut to what may be read in one go: however many runs there are."""
        prompts = self._texts.prompts
        groups = cut_by_length([(len(prompt), 1) for prompt in prompts], budget)
        return [Pack.of([(prompts[i], ()) for i in group], group) for group in groups]

    def hold(self, pack: Pack, keys_values: list[tuple[torch.Tensor, torch.Tensor]], tokens: Sequence[int]) -> None:
        """Take over what the reading of prompts has given.

        Args:
            keys_values: by layer, of the pack's tokens: [key heads, n, size] each.
            tokens: the first that is sampled after each prompt.
        """
        longest = int(pack.lengths.max())
        starts = pack.lengths.cumsum() - pack.lengths
        take = starts[:, None] + np.minimum(np.arange(longest), pack.lengths[:, None] - 1)
        index = torch.from_numpy(take.ravel()).to(self._device)

        def filled_up(x: torch.Tensor) -> torch.Tensor:
            whole = x.new_zeros(len(take), x.shape[0], self._most, x.shape[2])
            whole[:, :, :longest] = x.index_select(1, index).unflatten(1, take.shape).transpose(0, 1)
            return whole

        new = [(filled_up(keys), filled_up(values)) for keys, values in keys_values]
        if self.rows:
            new = [(torch.cat([k, nk]), torch.cat([v, nv])) for (k, v), (nk, nv) in zip(self.cache, new, strict=True)]
        self.cache = new
        self.rows += pack.rows.tolist()
        self.lengths = np.concatenate([self.lengths, pack.lengths])
        for row, token in zip(pack.rows.tolist(), tokens, strict=True):
            self.sampled[row].append(token)

    def _has_ended(self, row: int) -> bool:
        sampled = self.sampled[row]
        return len(sampled) >= self._texts.limits[row] or sampled[-1] == self._sampling.end

    def let_go(self) -> bool:
        """Drop texts that have ended, where they are many; say whether any goes on."""
        stay = [i for i, row in enumerate(self.rows) if not self._has_ended(row)]
        if not stay:
            self.rows, self.cache, self.lengths = [], [], self.lengths[:0]
        elif (len(self.rows) - len(stay)) * _STAY >= len(self.rows):
            index = torch.tensor(stay, device=self._device)
            self.cache = [(keys[index], values[index]) for keys, values in self.cache]
            self.rows, self.lengths = [self.rows[i] for i in stay], self.lengths[stay]
        return bool(stay)

    def first_numbers(self, pack: Pack) -> np.ndarray:
        """Return the random number for the first token of each of the pack's texts."""
        return self._texts.uniform[pack.rows, 0]

    def last_tokens(self) -> list[int]:
        """Return the token of each text held that is to be read next."""
        return [self.sampled[row][-1] for row in self.rows]

    def numbers(self) -> np.ndarray:
        """Return the random number for each text's next token."""
        at = [min(len(self.sampled[row]), self._texts.limits[row] - 1) for row in self.rows]
        return self._texts.uniform[self.rows, at]

    def append(self, tokens: Sequence[int]) -> None:
        """Take over each text's next token; one that has ended stays as it is."""
        for i, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if not self._has_ended(row):
                self.sampled[row].append(token)
                self.lengths[i] += 1


def _read_prompts(
    readers: Callable[[Sequence[int]], Reader],
    held: Sequence[_Held],
    packs: Sequence[tuple[int, Pack]],
    sampling: Sampling,
    device: torch.device,
) -> None:
    """Read prompts, sample the first token after each, and let each run hold its own."""
    stream = Stream.of([pack for _, pack in packs], device)
    kept = _KeepingAttention(stream.attention)
    logits = readers([number for number, _ in packs])(dataclasses.replace(stream, attention=kept))
    uniform = torch.from_numpy(np.concatenate([held[number].first_numbers(pack) for number, pack in packs])).to(device)
    chosen = choose_tokens(logits, uniform, sampling.temperature, sampling.top_p).tolist()
    first_token = first_row = 0
    for number, pack in packs:
        after, row_after = first_token + len(pack.tokens), first_row + len(pack.rows)
        mine = [(keys[:, first_token:after], values[:, first_token:after]) for keys, values in kept.keys_values]
        held[number].hold(pack, mine, chosen[first_row:row_after])
        first_token, first_row = after, row_after


class _KeepingAttention:
    """Another attention, whose keys and values are kept, by layer."""

    def __init__(self, attention: Attention) -> None:
        self._attention, self.longest = attention, attention.longest
        self.keys_values: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `Attention`."""
        assert layer == len(self.keys_values)
        self.keys_values.append((key, value))
        return self._attention(layer, query, key, value, scale, dropout)


class _CachedAttention:
    """The one token of each text looks at all that its text has read, and is kept with it."""

    def __init__(self, held: Sequence[_Held], device: torch.device) -> None:
        self._held = [run for run in held if run.rows]
        self.longest = max(int(run.lengths.max()) for run in self._held) + 1
        self._places, self._masks = [], []
        for run in self._held:
            length = torch.from_numpy(run.lengths).to(device)
            self._places.append((torch.arange(len(length), device=device), length))
            seen = torch.arange(int(run.lengths.max()) + 1, device=device) <= length[:, None]
            self._masks.append(None if (run.lengths == run.lengths[0]).all() else seen[:, None, None])

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `Attention`."""
        sizes = [len(run.rows) for run in self._held]
        outputs = []
        for run, (row, place), mask, q, k, v in zip(
            self._held, self._places, self._masks, *(x.split(sizes, 1) for x in (query, key, value)), strict=True
        ):
            keys, values = run.cache[layer]
            keys[row, :, place], values[row, :, place] = k.transpose(0, 1), v.transpose(0, 1)
            # The heads that one key head serves stand where else the tokens do: nothing is repeated.
            q = q.unflatten(0, (k.shape[0], -1)).permute(2, 0, 1, 3)
            longest = int(run.lengths.max()) + 1
            output = torch.nn.functional.scaled_dot_product_attention(
                q, keys[:, :, :longest], values[:, :, :longest], attn_mask=mask, scale=scale
            )
            outputs.append(output.permute(1, 2, 0, 3).flatten(0, 1))
        return torch.cat(outputs, 1)


def _next_tokens(held: Sequence[_Held], device: torch.device) -> Stream:
    """Return the stream of the last token of each text held."""
    sizes = tuple(len(run.rows) for run in held)
    tokens = torch.tensor([token for run in held for token in run.last_tokens()], device=device)
    positions = torch.from_numpy(np.concatenate([run.lengths for run in held])).to(device)
    every = torch.arange(len(tokens), device=device)
    attention = _CachedAttention(held, device)
    return Stream(tokens[None], positions[None], every, tokens, torch.ones_like(tokens), sizes, sizes, attention)
