"""The whole computation written down as a reader of the paper would: literal, slow, without any shortcut.

Pure functions of a dictionary of named parameters. Every slot of a batch goes through the fusion, padding and repeats
included; padded tokens are kept and masked by an added constant; users, items, heads and rows are looped over. There is
no dropout. The dtype is the inputs' own. Nothing of the package is imported.

Source: Ji et al., ACM MM 2023, arXiv:2308.04067, in the form of its released code.

Shape letters, used as name suffixes in this file:
    B users, L input positions, S = L + 1 slots, C = B x S candidate columns, R valid rows, M items, N items of the
    catalogue, K tokens of an item, T text tokens, V image tokens, Q positions of one sequence, D width
"""

import math
from typing import NamedTuple

import torch

MASKED_TOKEN = -1e4
MASKED_POSITION = -1e9
MASKED_LOGIT = -1e4
BRANCHES = ("id", "text", "image")


class Settings(NamedTuple):
    """What the parameters' shapes do not tell."""

    fusion_heads: int
    sequence_heads: int
    id_masking: bool


class Features(NamedTuple):
    """Frozen features of all items; row 0 stands for padding.

    Attributes:
        text: ``(N + 1, T, text width)``.
        text_mask: bool ``(N + 1, T)``, True at real tokens.
        image: ``(N + 1, V, image width)``.
        image_mask: bool ``(N + 1, V)``.
    """

    text: torch.Tensor
    text_mask: torch.Tensor
    image: torch.Tensor
    image_mask: torch.Tensor


class Losses(NamedTuple):
    """The loss and its two parts, scalars."""

    loss: torch.Tensor
    ce: torch.Tensor
    kd: torch.Tensor


def under(parameters, prefix):
    """Parameters whose names start with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in parameters.items() if name.startswith(prefix)}


def count_blocks(parameters):
    return len({name.split(".")[1] for name in parameters if name.startswith("blocks.")})


def linear(x, parameters, name):
    y = x @ parameters[f"{name}.weight"].T
    bias = parameters.get(f"{name}.bias")
    return y if bias is None else y + bias


def layer_norm(x, parameters, name):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    normed = (x - mean) / torch.sqrt(variance + 1e-6)
    return normed * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def attention(x_QD, added_QQ, parameters, num_heads):
    """Multi-head attention of one sequence with itself, residual sum, LayerNorm.

    ``qkv.weight`` holds the rows of the query, the key and the value projection, in this order.
    """
    width = x_QD.shape[1]
    query, key, value = (x_QD @ weight.T for weight in parameters["qkv.weight"].split(width))
    size = width // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores_QQ = query[:, part] @ key[:, part].T / math.sqrt(size) + added_QQ
        heads.append(torch.softmax(scores_QQ, dim=1) @ value[:, part])
    return layer_norm(x_QD + linear(torch.cat(heads, dim=1), parameters, "output"), parameters, "layer_norm")


def feed_forward(x_QD, parameters):
    inner = torch.relu(linear(x_QD, parameters, "expand"))
    return layer_norm(x_QD + linear(inner, parameters, "contract"), parameters, "layer_norm")


def transformer(x_QD, added_QQ, parameters, num_heads):
    """All blocks of one sequence."""
    for number in range(count_blocks(parameters)):
        block = under(parameters, f"blocks.{number}.")
        x_QD = attention(x_QD, added_QQ, under(block, "attention."), num_heads)
        x_QD = feed_forward(x_QD, under(block, "feed_forward."))
    return x_QD


def fuse_item(id_D, text_TD, image_VD, text_mask_T, image_mask_V, parameters, num_heads, id_masking):
    """The ID-aware multi-modal transformer of one item; token order text, image, ID.

    Returns:
        The ID token, the first text token and the first image token of the last block.
    """
    tokens_KD = torch.cat([text_TD, image_VD, id_D.unsqueeze(0)])
    real = [*text_mask_T.tolist(), *image_mask_V.tolist(), True]
    num_tokens = len(real)
    added_KK = tokens_KD.new_zeros(num_tokens, num_tokens)
    for query in range(num_tokens):
        for key in range(num_tokens):
            if not real[key]:
                added_KK[query, key] += MASKED_TOKEN
            if id_masking and key == num_tokens - 1 and query != num_tokens - 1:
                added_KK[query, key] += MASKED_TOKEN
    tokens_KD = transformer(tokens_KD, added_KK, parameters, num_heads)
    return tokens_KD[-1], tokens_KD[0], tokens_KD[len(text_TD)]


def item_vectors(parameters, item_ids, features, settings):
    """Vectors of some items, each fused by itself; an item asked for twice is computed twice.

    Args:
        parameters: of the whole model.
        item_ids: a list of M ids; 0 is allowed.
        features: of all items.
        settings: heads and masking.

    Returns:
        ``(M, D)`` a branch.
    """
    found = {branch: [] for branch in BRANCHES}
    encoder = under(parameters, "item_encoder.")
    for item in item_ids:
        views = fuse_item(
            linear(encoder["id_table.weight"][item], encoder, "id_projection"),
            linear(features.text[item], encoder, "text_projection"),
            linear(features.image[item], encoder, "image_projection"),
            features.text_mask[item],
            features.image_mask[item],
            under(encoder, "fusion."),
            settings.fusion_heads,
            settings.id_masking,
        )
        for branch, view_D in zip(BRANCHES, views, strict=True):
            inner = torch.nn.functional.leaky_relu(linear(view_D, encoder, f"heads.{branch}.0"), 0.01)
            found[branch].append(linear(inner, encoder, f"heads.{branch}.2"))
    return {branch: torch.stack(vectors) for branch, vectors in found.items()}


def sequence_states(parameters, items_BLD, real_BL, num_heads):
    """SASRec of one branch over left-padded rows.

    Args:
        parameters: of the branch's encoder.
        items_BLD: item vectors; padded places may hold anything.
        real_BL: bool, True at real positions.
        num_heads: attention heads.

    Returns:
        ``(B, L, D)``; what stands at padded places has no meaning.
    """
    states = []
    for items_LD, real_L in zip(items_BLD, real_BL.tolist(), strict=True):
        length = len(real_L)
        added_LL = items_LD.new_zeros(length, length)
        for query in range(length):
            for key in range(length):
                if key > query or not real_L[key]:
                    added_LL[query, key] = MASKED_POSITION
        x_LD = items_LD + parameters["position_embedding.weight"][:length]
        x_LD = layer_norm(x_LD, parameters, "layer_norm")
        states.append(transformer(x_LD, added_LL, parameters, num_heads))
    return torch.stack(states)


def branch_states(parameters, items, real_BL, settings):
    """The three branches' states, each ``(B, L, D)``, from the three branches' ``(B, L, D)`` item vectors."""
    return {
        branch: sequence_states(
            under(parameters, f"sequence_encoders.{branch}."), items[branch], real_BL, settings.sequence_heads
        )
        for branch in BRANCHES
    }


def masked_columns(slots_BS):
    """Columns that are no negatives, by comparing every column with every slot of every user.

    Returns:
        bool ``(B, S - 1, C)``.
    """
    num_users, num_slots = slots_BS.shape
    columns_C = slots_BS.flatten()
    same_BSC = slots_BS[:, :, None] == columns_C[None, None, :]
    masked_BC = same_BSC.any(dim=1) | (columns_C == 0)[None, :]
    masked_BLC = masked_BC[:, None, :].repeat(1, num_slots - 1, 1)
    for user in range(num_users):
        for position in range(num_slots - 1):
            masked_BLC[user, position, user * num_slots + position + 1] = False
    return masked_BLC


def logits_and_labels(parameters, slots_BS, features, probability_N, settings):
    """Corrected and masked logits of every valid position, row-major.

    Args:
        parameters: of the whole model.
        slots_BS: int64 item ids, left padded with 0.
        features: of all items.
        probability_N: ``(N + 1,)``, each item's share of the training interactions; 1 for padding.
        settings: heads and masking.

    Returns:
        ``(R, C)`` a branch, and the labels ``(R,)``.
    """
    num_users, num_slots = slots_BS.shape
    vectors = item_vectors(parameters, slots_BS.flatten().tolist(), features, settings)
    slots = {branch: vector.view(num_users, num_slots, -1) for branch, vector in vectors.items()}
    inputs = {branch: slot[:, :-1] for branch, slot in slots.items()}
    states = branch_states(parameters, inputs, slots_BS[:, :-1] != 0, settings)
    masked_BLC = masked_columns(slots_BS)
    log_probability_C = torch.log(probability_N[slots_BS.flatten()])
    logits, labels = {}, []
    for branch in BRANCHES:
        scores_BLC = states[branch] @ vectors[branch].T - log_probability_C
        scores_BLC = torch.where(masked_BLC, torch.full_like(scores_BLC, MASKED_LOGIT), scores_BLC)
        rows = [
            scores_BLC[user, position]
            for user in range(num_users)
            for position in range(num_slots - 1)
            if slots_BS[user, position] != 0
        ]
        logits[branch] = torch.stack(rows)
    for user in range(num_users):
        for position in range(num_slots - 1):
            if slots_BS[user, position] != 0:
                labels.append(user * num_slots + position + 1)
    return logits, torch.tensor(labels)


def distillation(student_RC, teacher_RC, temperature, detach_teacher=False, kl=False):
    """Soft cross-entropy, or KL divergence, of the student under the softened teacher, times temperature squared."""
    if detach_teacher:
        teacher_RC = teacher_RC.detach()
    target_RC = torch.softmax(teacher_RC / temperature, dim=1)
    terms_RC = -target_RC * torch.log_softmax(student_RC / temperature, dim=1)
    if kl:
        terms_RC = terms_RC + target_RC * torch.log_softmax(teacher_RC / temperature, dim=1)
    return temperature**2 * terms_RC.sum(dim=1).mean()


def losses(logits, labels_R, kd_weight, temperature, detach_teacher=False, kl=False):
    """The whole loss from logits, ``(R, C)`` a branch."""
    ce = 0.0
    for branch in BRANCHES:
        log_probability_RC = torch.log_softmax(logits[branch], dim=1)
        ce = ce - torch.stack([row[label] for row, label in zip(log_probability_RC, labels_R, strict=True)]).mean()
    ensemble = (logits["text"] + logits["image"] + logits["id"]) / 3
    kd = kd_weight * (
        distillation(logits["text"], logits["id"], temperature, detach_teacher, kl)
        + distillation(logits["image"], logits["id"], temperature, detach_teacher, kl)
        + distillation(logits["id"], ensemble, temperature, detach_teacher, kl)
    )
    return Losses(ce + kd, ce, kd)


def training_loss(
    parameters, slots_BS, features, probability_N, settings, kd_weight, temperature, detach_teacher=False, kl=False
):
    """The training loss of a batch; arguments as in ``logits_and_labels`` and ``losses``."""
    logits, labels_R = logits_and_labels(parameters, slots_BS, features, probability_N, settings)
    return losses(logits, labels_R, kd_weight, temperature, detach_teacher, kl)


def scores(parameters, histories, features, max_seq_len, settings):
    """Scores of all items for every user under every head.

    Args:
        parameters: of the whole model.
        histories: a list of item ids a user, oldest first; its last ``max_seq_len`` are read.
        features: of all items.
        max_seq_len: L.
        settings: heads and masking.

    Returns:
        ``(users, N)`` a branch and for ``fused``, their mean; column j is item j + 1.
    """
    table = item_vectors(parameters, list(range(len(features.text))), features, settings)
    heads = {}
    for branch in BRANCHES:
        rows = []
        for history in histories:
            inputs = history[-max_seq_len:]
            inputs = [0] * (max_seq_len - len(inputs)) + inputs
            encoder = under(parameters, f"sequence_encoders.{branch}.")
            real = torch.tensor([[item != 0 for item in inputs]])
            states = sequence_states(encoder, table[branch][inputs].unsqueeze(0), real, settings.sequence_heads)
            rows.append(table[branch][1:] @ states[0, -1])
        heads[branch] = torch.stack(rows)
    return {"fused": (heads["text"] + heads["image"] + heads["id"]) / 3, **heads}


def ranks(scores_UN, targets, histories):
    """Place of every user's target among all items, history left out; equal scores stand before the target.

    Returns:
        A list: 1 = best, 0 = the target lies in the history and cannot be hit.
    """
    found = []
    for scores_N, target, history in zip(scores_UN.tolist(), targets, histories, strict=True):
        if target in history:
            found.append(0)
            continue
        candidates = [item for item in range(1, len(scores_N) + 1) if item not in history]
        candidates.sort(key=lambda item: (-scores_N[item - 1], item == target))
        found.append(candidates.index(target) + 1)
    return found
