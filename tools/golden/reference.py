"""What a golden file holds of one model: logits, loss, gradients, AdamW steps, greedy continuations."""

import torch
import torch.nn.functional as F

ADAMW = {"lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1, "steps": 10}
NEW_TOKENS = 12
# AdamW's first steps are lr * sign(gradient): an element whose gradient is near zero can step either way, and the runs part.
MAX_LOSS_ERROR = 5e-6


def logits(model, ids):
    """Logits [length, vocab] of one sequence, alone and without padding."""
    return model(input_ids=ids[None], use_cache=False).logits[0]


def loss(model, ids, labels):
    """Sum of the cross-entropy of all unmasked, shifted tokens over the number of them, over all sequences."""
    total, count = 0.0, 0
    for row, label in zip(ids, labels):
        total = total + F.cross_entropy(logits(model, row)[:-1], label[1:], ignore_index=-100, reduction="sum")
        count += int((label[1:] != -100).sum())
    return total / count, count


def trainable(model):
    return [(name, param) for name, param in model.named_parameters() if param.requires_grad]


def one_step(model, ids, labels):
    """Loss, gradient of every trainable parameter, and their global L2 norm. Leaves no gradient behind."""
    model.zero_grad(set_to_none=True)
    value, count = loss(model, ids, labels)
    value.backward()
    grads = {name: param.grad.clone() for name, param in trainable(model)}
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in grads.values()))
    model.zero_grad(set_to_none=True)
    return value.item(), count, grads, norm.item()


def adamw(model, ids, labels):
    """Ten AdamW steps on the same batch: the loss before each step, and the loss after the last."""
    optimizer = torch.optim.AdamW(
        [param for _, param in trainable(model)], lr=ADAMW["lr"], betas=tuple(ADAMW["betas"]), eps=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"], foreach=False,
    )
    losses = []
    for _ in range(ADAMW["steps"]):
        optimizer.zero_grad(set_to_none=True)
        value, _ = loss(model, ids, labels)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    with torch.no_grad():
        final, _ = loss(model, ids, labels)
    return losses, final.item()


def greedy(model, ids):
    """NEW_TOKENS greedy tokens through `generate`, checked against full forwards; and the smallest margin of a choice.

    The end-of-sequence token does not stop it.
    """
    config = model.generation_config
    config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(
            ids[None], attention_mask=torch.ones_like(ids[None]), max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True,
        )[0]
        top = logits(model, out)[len(ids) - 1 : -1].topk(2)
    new = out[len(ids) :]
    assert torch.equal(top.indices[:, 0], new), "the KV cache and the full forward choose different tokens"
    return new.tolist(), (top.values[:, 0] - top.values[:, 1]).min().item()


def max_error(plain, precise):
    """{name: max |float32 - float64|} of two dicts of tensors."""
    return {name: (plain[name].double() - precise[name]).abs().max().item() for name in plain}


def assert_well_conditioned(name, plain, precise):
    """The losses of the AdamW steps do not depend on rounding."""
    error = max(abs(a - b) for a, b in zip(plain["adamw_losses"], precise["adamw_losses"]))
    assert error < MAX_LOSS_ERROR, f"{name}: AdamW's losses differ by {error:.1e} from float64's: take another seed"
