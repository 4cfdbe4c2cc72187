"""In-batch sampled softmax with popularity correction, and online distillation between branches.

Shape letters, used as name suffixes in this file:
    B users, S slots a user (inputs and shifted targets), R valid rows, C = B x S candidate columns, D width
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED_LOGIT = -1e4
"""Not -inf: the distillation terms multiply a softmax by a log-softmax, and 0 x -inf is NaN."""


class Candidates(NamedTuple):
    """Rows and columns of a batch's logits.

    Attributes:
        rows: int64 ``(R,)``, flat input positions (``user * (S - 1) + position``) that are real.
        label: int64 ``(R,)``, column of each row's next item.
        masked: bool ``(R, C)``, columns that are no negatives for a row.
    """

    rows: Tensor
    label: Tensor
    masked: Tensor


class LossTerms(NamedTuple):
    """The two parts of the loss, and their sum."""

    loss: Tensor
    ce: Tensor
    kd: Tensor


def in_batch_candidates(slots_BS: Tensor) -> Candidates:
    """Choose rows, labels and false-negative masks of a batch.

    All B x S slots are candidates, duplicates kept. Masked for a row: padding, and every column whose item occurs
    anywhere in that row's user (past, future, copies of the target), except the label column itself.

    Args:
        slots_BS: int64 item ids, left padded with 0.

    Returns:
        The rows in row-major order of the real input positions.
    """
    num_users, num_slots = slots_BS.shape
    real_BL = slots_BS[:, :-1] != 0
    user, position = real_BL.nonzero(as_tuple=True)
    label = user * num_slots + position + 1
    unique, inverse_BS = torch.unique(slots_BS, return_inverse=True)
    holds_BU = torch.zeros(num_users, len(unique), dtype=torch.bool, device=slots_BS.device)
    holds_BU.scatter_(1, inverse_BS, True)
    holds_BU |= unique == 0
    masked = holds_BU[:, inverse_BS.flatten()][user]
    masked[torch.arange(len(label), device=label.device), label] = False
    return Candidates(user * (num_slots - 1) + position, label, masked)


def corrected_logits(states_RD: Tensor, items_CD: Tensor, log_popularity_C: Tensor, masked_RC: Tensor) -> Tensor:
    """Score every candidate for every row, less its log popularity; masked columns get ``MASKED_LOGIT``.

    Returns:
        float32 ``(R, C)``.
    """
    with torch.autocast(states_RD.device.type, enabled=False):  # 8 bits of mantissa cannot tell candidates apart
        scores = states_RD.float() @ items_CD.float().T - log_popularity_C
    return scores.masked_fill(masked_RC, MASKED_LOGIT)


def distillation_loss(student_RC: Tensor, teacher_RC: Tensor, temperature: float, detach_teacher: bool) -> Tensor:
    """Soft cross-entropy of the student under the teacher's softened distribution, times temperature squared.

    As in the released code it is no KL divergence (equal inputs give the entropy, not 0), and gradients reach the
    teacher too unless ``detach_teacher``.

    Source: Ji et al., ACM MM 2023, section on online distillation; Hinton et al., arXiv:1503.02531.
    """
    if detach_teacher:
        teacher_RC = teacher_RC.detach()
    target = F.softmax(teacher_RC / temperature, dim=1)
    log_student = F.log_softmax(student_RC / temperature, dim=1)
    return -(temperature**2) * (target * log_student).sum(dim=1).mean()


def distillation_weight(epoch: int, rampup_epochs: float, weight: float) -> float:
    """Weight of the distillation loss in an epoch (counted from 1).

    ``weight * exp(-5 (1 - min(epoch, r) / r)^2)`` with ramp length r, or ``weight`` where there is no ramp. Source: the
    sigmoid-shaped ramp of Laine and Aila, arXiv:1610.02242, as in the released code.
    """
    if rampup_epochs <= 0:
        return weight
    progress = min(float(epoch), rampup_epochs) / rampup_epochs
    return weight * math.exp(-5.0 * (1.0 - progress) ** 2)


def branch_losses(
    logits: tuple[Tensor, Tensor, Tensor],
    label_R: Tensor,
    *,
    kd_weight: float,
    temperature: float,
    detach_teacher: bool,
) -> LossTerms:
    """Sum the three branches' cross-entropies and their mutual distillation.

    Text and image learn from the ID branch, the ID branch from the mean of the three.

    Args:
        logits: ID, text and image, each ``(R, C)``.
        label_R: int64, the right column of each row.
        kd_weight: weight of the distillation in this epoch; 0 skips it.
        temperature: softmax temperature tau.
        detach_teacher: no gradient into teachers.

    Returns:
        Scalars.
    """
    of_id, of_text, of_image = logits
    ce = torch.stack([F.cross_entropy(branch, label_R) for branch in logits]).sum()
    kd = ce.new_zeros(())
    if kd_weight > 0:
        ensemble = (of_text + of_image + of_id) / 3
        pairs = ((of_text, of_id), (of_image, of_id), (of_id, ensemble))
        terms = [distillation_loss(student, teacher, temperature, detach_teacher) for student, teacher in pairs]
        kd = kd_weight * torch.stack(terms).sum()
    return LossTerms(ce + kd, ce, kd)
