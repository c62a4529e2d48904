"""Text from a model, token by token."""

from __future__ import annotations

import torch

from gpt2.model.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT, prompt: list[int], count: int, temperature: float, top_k: int, seed: int
) -> list[int]:
    """Return `count` token ids that go on from `prompt` (at least one id).

    temperature 0 takes the likeliest token; top_k 0 samples among all. The model sees the last
    block_size tokens. The draw happens on the CPU, so a seed gives the same text on any device that
    computes the same logits.
    """
    device = model.transformer.wte.weight.device
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    ids = torch.tensor([prompt], device=device)
    for _ in range(count):
        logits = model.logits(ids[:, -model.config.block_size :])[0].float().cpu()  # (V,)
        if temperature == 0.0:
            token = int(logits.argmax())
        else:
            logits = logits / temperature
            if 0 < top_k < logits.numel():
                logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
            token = int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))
        ids = torch.cat([ids, torch.tensor([[token]], device=device)], dim=1)
    model.train(training)
    return ids[0, len(prompt) :].tolist()
