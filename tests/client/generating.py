"""Answers of tiny models, with a filled cache and without."""

import numpy as np
import torch

NEW = 8


def tokens(seed, count):
    """Some token ids of the tiny models."""
    return np.random.default_rng(seed).integers(3, 500, count).tolist()


def generate(model, filled, new=NEW):
    """Token ids that `generate` returns."""
    with torch.inference_mode():
        return model.generate(**filled, max_new_tokens=new, do_sample=False)


def answers(model, filled):
    """The new tokens of each prompt."""
    return [row[-NEW:] for row in generate(model, filled).tolist()]


def plainly(model, segments):
    """What the model answers by itself."""
    ids = torch.tensor([[token for segment in segments for token in segment]])
    return answers(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]
