"""Tiny networks of transformers with their tokenizers, and a table of texts, made by the test."""

import random

import pytest
import torch

WORDS = {
    "good": ["fine", "lovely", "bright", "warm", "happy", "sweet", "kind", "gentle"],
    "bad": ["awful", "dull", "cold", "grim", "nasty", "bitter", "harsh", "cruel"],
}
FILLER = [
    "the",
    "a",
    "day",
    "film",
    "meal",
    "room",
    "was",
    "felt",
    "looked",
    "very",
    "quite",
    "rather",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def table(path, rows=160, seed=0):
    """Write texts of 3 to 12 words whose class one of them decides; return them."""
    draw = random.Random(seed)
    lines = []
    for i in range(rows):
        label = ("good", "bad")[i % 2]
        words = [draw.choice(FILLER) for _ in range(draw.randint(2, 11))]
        words.insert(draw.randrange(len(words) + 1), draw.choice(WORDS[label]))
        lines.append((" ".join(words), label))
    path.write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in lines))
    return [a for a, _ in lines]


def tokenizer(kind, folder):
    """Save a tokenizer of words: BERT's with special tokens, or GPT's with an end and no padding."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({*FILLER, *(word for known in WORDS.values() for word in known)})
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if kind == "bert" else ["<end>", "[UNK]"]
    ids = {word: i for i, word in enumerate([*first, *words])}
    made = Tokenizer(models.WordLevel(ids, "[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "model_max_length": 24}
    if kind == "bert":
        ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
        made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
        special |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        special |= {"eos_token": "<end>"}
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return len(ids)


def network(kind, folder, size=None):
    """Save a tiny network with random weights and its tokenizer; return it."""
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    from knobs.weights import imported

    hf = imported("transformers")
    hf.utils.logging.disable_progress_bar()
    size = tokenizer(kind, folder) if size is None else size
    torch.manual_seed(7)
    if kind == "bert":
        places = {"max_position_embeddings": 24, "intermediate_size": 48, "pad_token_id": 0}
        net = hf.BertForPreTraining(hf.BertConfig(vocab_size=size, **SIZES, **places))
    else:
        places = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0}
        net = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=size, eos_token_id=0, **places))
    net.save_pretrained(folder)
    return net
