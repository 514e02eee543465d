"""Tiny foreign models, and one small attention model whose every part a test can break."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.models import create

VOCABULARY = 61


def sharp_model(name: str = "pythia"):
    """Build a tiny model whose guesses are far from even."""
    torch.manual_seed(0)
    model = create(name, "tiny")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


def gpt_neox() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=256,
        )
    ).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0
        )
    ).eval()


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, vocab_size: int = VOCABULARY, hidden_size: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = 1


class Toy(PreTrainedModel):
    """One attention head with a linear position bias. Sound; the subclasses each break one method."""

    config_class = ToyConfig
    slope = 0.0625

    def __init__(self, config: ToyConfig | None = None):
        config = ToyConfig() if config is None else config
        super().__init__(config)
        torch.manual_seed(0)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)

    def get_input_embeddings(self):
        return self.embed

    def future(self, query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
        """True where a key must not be seen."""
        return key > query

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        return -self.slope * (query - key)

    def padding(self, attention_mask: Tensor | None) -> Tensor | None:
        return attention_mask

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None, cache: DynamicCache | None) -> Tensor:
        embeds = self.embed(input_ids)
        query, key, value = self.mix(embeds)[:, None].chunk(3, dim=-1)
        past = 0 if cache is None else cache.get_seq_length()
        if cache is not None:
            key, value = cache.update(key, value, 0)
        total = key.shape[2]
        keys = torch.arange(total, device=embeds.device)
        queries = keys[past:, None]
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5 + self.bias(queries, keys)
        hidden_keys = self.future(queries, keys, attention_mask)
        padding = self.padding(attention_mask)
        if padding is not None:
            hidden_keys = hidden_keys | ((padding[:, None, None] == 0) & (keys != queries))
        weights = scores.masked_fill(hidden_keys, -torch.inf).softmax(-1)
        return embeds + (weights @ value)[:, 0]

    def logits(self, hidden: Tensor, labels: Tensor | None) -> Tensor:
        return self.head(hidden)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        hidden = self.hidden(input_ids, attention_mask, past_key_values)
        logits = self.logits(hidden, labels)
        loss = None if labels is None else self.loss(logits, labels)
        return CausalLMOutputWithPast(loss=loss, logits=logits[:, -logits_to_keep:], past_key_values=past_key_values)


class SwappedBias(Toy):
    """The published mistake: rows and columns of the bias and of its mask exchanged."""

    def future(self, query, key, attention_mask):
        return super().future(key, query, attention_mask)

    def bias(self, query, key):
        return super().bias(key, query)


class MaskSwitchesCausalityOff(Toy):
    def future(self, query, key, attention_mask):
        sees_all = attention_mask is not None
        return torch.zeros_like(key > query) if sees_all else key > query


class LeakInCachedPieces(Toy):
    """Causal from an empty cache; a piece after cached tokens sees all of itself."""

    def future(self, query, key, attention_mask):
        past = int(query[0])
        return (key > query) & (past == 0)


class PaddingSeen(Toy):
    def padding(self, attention_mask):
        return None


class LeakUnderPadding(Toy):
    """A mask that holds padding replaces the causal one."""

    def future(self, query, key, attention_mask):
        padded = attention_mask is not None and bool((attention_mask == 0).any())
        return torch.zeros_like(key > query) if padded else key > query


class SeesEndOfOwnChunk(Toy):
    """Each token sees the last token of its own chunk, even where it lies ahead."""

    def future(self, query, key, attention_mask):
        end = (query // 5 + 1) * 5 - 1
        return (key > query) & (key != end)


class SeesOneTokenAheadOnce(Toy):
    """A leak at a single offset of a long chunk."""

    def future(self, query, key, attention_mask):
        return (key > query) & ~((query % 30 == 17) & (key == query + 1))


class LeaksOnce(Toy):
    """One token sees one later token, and only where tokens are run in a certain way."""

    query, key = 40, 41

    def leaks(self, past: int, attention_mask: Tensor | None) -> bool:
        return True

    def future(self, query, key, attention_mask):
        leaking = (query == self.query) & (key == self.key) & self.leaks(int(query[0]), attention_mask)
        return (key > query) & ~leaking


class LeaksOnceAcrossTheBoundary(LeaksOnce):
    """The last token of the first chunk of 30 sees the first one of the second."""

    query, key = 29, 30


class LeaksOnceIntoTheNextPeriod(LeaksOnce):
    query, key = 25, 57


class LeaksOnceUnderAMask(LeaksOnce):
    def leaks(self, past, attention_mask):
        return attention_mask is not None


class LeaksOnceUnderPadding(LeaksOnce):
    def leaks(self, past, attention_mask):
        return attention_mask is not None and bool((attention_mask == 0).any())


class LeaksOnceInCachedPieces(LeaksOnce):
    def leaks(self, past, attention_mask):
        return past > 0


class LeaksOnceInCachedPiecesUnderPadding(LeaksOnceUnderPadding):
    def leaks(self, past, attention_mask):
        return past > 0 and super().leaks(past, attention_mask)


class LeaksOnceInTraining(LeaksOnce):
    def leaks(self, past, attention_mask):
        return self.training


class LeaksOnceUnderOnePadding(Toy):
    """One token sees a later one, in rows that are padded by two alone."""

    query, key, padded_by = 8, 11, 2

    def hidden(self, input_ids, attention_mask, cache):
        hidden = super().hidden(input_ids, attention_mask, cache)
        if attention_mask is not None and input_ids.shape == attention_mask.shape and input_ids.shape[1] > self.key:
            padded = (attention_mask == 0).sum(1) == self.padded_by
            later = self.embed(input_ids[:, self.key]).mean(-1) * 1e-3 * padded
            hidden = hidden.index_add(
                1, torch.tensor([self.query]), later[:, None, None].expand(-1, 1, hidden.shape[2])
            )
        return hidden


class MaskFlattensTheBias(Toy):
    """Sound, but not the same function with a mask as without one."""

    def hidden(self, input_ids, attention_mask, cache):
        self.slope = Toy.slope if attention_mask is None else 0.0
        return super().hidden(input_ids, attention_mask, cache)


class OtherRowsSeen(Toy):
    def hidden(self, input_ids, attention_mask, cache):
        hidden = super().hidden(input_ids, attention_mask, cache)
        return hidden + 0.1 * hidden.mean(0, keepdim=True)


class LabelsNotShifted(Toy):
    def loss(self, logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class LabelsShiftedTwice(Toy):
    def loss(self, logits, labels):
        return super().loss(logits[:, :-1], labels[:, 1:])


class LabelsShiftedTwiceInTraining(Toy):
    def loss(self, logits, labels):
        return super().loss(logits[:, :-1], labels[:, 1:]) if self.training else super().loss(logits, labels)


class LabelsInLogits(Toy):
    def logits(self, hidden, labels):
        shown = 0 if labels is None else self.embed(labels.clamp(min=0))
        return self.head(hidden + shown)


class CausalityOffInTraining(Toy):
    def future(self, query, key, attention_mask):
        return torch.zeros_like(key > query) if self.training else key > query


class SaysNothing(Toy):
    """Logits that never move would pass any test that looks for leaks only."""

    def logits(self, hidden, labels):
        return 0.0 * self.head(hidden)


class Forgets(Toy):
    """No position feels another one."""

    def future(self, query, key, attention_mask):
        return key != query


class NotANumber(Toy):
    """NaN compares as no change: it must not pass for one."""

    def logits(self, hidden, labels):
        return super().logits(hidden, labels) * torch.nan
