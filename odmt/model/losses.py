"""Softmax loss over candidate items, and online distillation between branches, in chunks of rows.

One form serves every kind of loss. The columns are distinct items; a column may stand for several equal candidates
(``log_count``), may be no candidate at all, and may be hidden from the rows of some users.

Shape letters, used as name suffixes in this file:
    R rows (positions whose next item is known), M columns (distinct items), B users, D width
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Largest rows x columns of one chunk of logits. Values and gradients of three branches with distillation take up to 25
such float32 matrices at once: 25 MiB on a CPU, 0.8 GiB on a GPU."""


class Candidates(NamedTuple):
    """What every row is scored against.

    Attributes:
        user: int64 ``(R,)``, row of ``held``.
        label: int64 ``(R,)``, column of the next item.
        log_popularity: float32 ``(M,)``, subtracted from the scores (logQ correction).
        log_count: float64 ``(M,)``, log of how many equal candidates a column stands for; -inf: none. A row's own label
            counts once whatever stands here.
        held: bool ``(B, M)``, columns that are no negatives for a user's rows; None = no such.
    """

    user: Tensor
    label: Tensor
    log_popularity: Tensor
    log_count: Tensor
    held: Tensor | None


class Objective(NamedTuple):
    """What is minimised in an epoch.

    Attributes:
        kd_weight: weight of the distillation; 0 skips it.
        temperature: softmax temperature tau of the distillation.
        detach_teacher: no gradient into teachers.
        kl: distil by Kullback-Leibler divergence instead of soft cross-entropy. Another value; with a detached teacher
            the same gradient.
    """

    kd_weight: float = 0.0
    temperature: float = 1.0
    detach_teacher: bool = False
    kl: bool = False


class LossTerms(NamedTuple):
    """The two parts of the loss, and their sum; only the sum carries gradients."""

    loss: Tensor
    ce: Tensor
    kd: Tensor


def candidate_loss(
    states: Sequence[Tensor],
    items: Sequence[Tensor],
    candidates: Candidates,
    objective: Objective,
    *,
    num_rows: float | None = None,
    chunk_elements: int | None = None,
) -> LossTerms:
    """Sum the branches' cross-entropies and, of three branches (ID, text, image), their mutual distillation.

    Gradients are computed chunk by chunk along with the values, so that the logits of one chunk exist at a time.

    Args:
        states: one ``(R, D)`` a branch.
        items: one ``(M, D)`` a branch.
        candidates: columns and labels.
        objective: what is minimised.
        num_rows: means are over so many rows; None = R.
        chunk_elements: rows x columns at once; None = by device.

    Returns:
        float32 scalars (float64 of float64 inputs).
    """
    wide = [tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in (*states, *items)]
    limit = chunk_elements or CHUNK_ELEMENTS.get(wide[0].device.type, CHUNK_ELEMENTS["cuda"])
    rows_at_once = max(1, limit // max(1, len(candidates.log_count)))
    total = float(num_rows if num_rows is not None else len(candidates.label))
    with torch.autocast(wide[0].device.type, enabled=False):  # 8 bits of mantissa cannot tell candidates apart
        terms = _ChunkedLoss.apply(candidates, objective, total, rows_at_once, *wide)  # type: ignore[no-untyped-call]
    return LossTerms(*terms)


class _ChunkedLoss(torch.autograd.Function):
    """Value and gradient of all rows, chunk after chunk; the backward pass only scales."""

    @staticmethod
    def forward(
        ctx: Any, candidates: Candidates, objective: Objective, total: float, rows_at_once: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_branches = len(tensors) // 2
        wants_gradient = any(ctx.needs_input_grad)
        leaves = [tensor.detach() for tensor in tensors]
        gradients = [torch.zeros_like(leaf) for leaf in leaves] if wants_gradient else []
        items = [leaf.requires_grad_(wants_gradient) for leaf in leaves[num_branches:]]
        sums = leaves[0].new_zeros(2)
        for start in range(0, len(candidates.label), rows_at_once):
            part = slice(start, start + rows_at_once)
            states = [leaf[part].detach().requires_grad_(wants_gradient) for leaf in leaves[:num_branches]]
            with torch.set_grad_enabled(wants_gradient):
                ce, kd = _chunk(states, items, candidates, part, objective)
                if wants_gradient:
                    found = torch.autograd.grad((ce + kd) / total, [*states, *items])
            sums += torch.stack([ce.detach(), kd.detach()])
            if wants_gradient:
                for gradient, piece in zip(gradients[:num_branches], found[:num_branches], strict=True):
                    gradient[part] = piece
                torch._foreach_add_(gradients[num_branches:], found[num_branches:])
        ctx.save_for_backward(*gradients)
        ce, kd = (sums / total).unbind()
        ctx.mark_non_differentiable(ce, kd)
        return ce + kd, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(saved * grads[0] for saved in ctx.saved_tensors)


def _chunk(
    states: Sequence[Tensor], items: Sequence[Tensor], candidates: Candidates, part: slice, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Return the sums over some rows of the cross-entropies and of the weighted distillation."""
    label_R1 = candidates.label[part].unsqueeze(1)
    counts_RM = candidates.log_count.to(states[0].dtype).expand(len(label_R1), -1)
    if candidates.held is not None:
        counts_RM = counts_RM.masked_fill(candidates.held[candidates.user[part]], -math.inf)
    counts_RM = counts_RM.scatter(1, label_R1, 0.0)
    logits = [state @ item.T - candidates.log_popularity for state, item in zip(states, items, strict=True)]
    ce = torch.stack(
        [
            (torch.logsumexp(branch + counts_RM, dim=1) - branch.gather(1, label_R1).squeeze(1)).sum()
            for branch in logits
        ]
    ).sum()
    if objective.kd_weight <= 0 or len(logits) == 1:
        return ce, ce.new_zeros(())
    of_id, of_text, of_image = (branch / objective.temperature for branch in logits)
    ensemble = (of_text + of_image + of_id) / 3
    pairs = ((of_text, of_id), (of_image, of_id), (of_id, ensemble))
    kd = torch.stack([_distillation(student, teacher, counts_RM, objective) for student, teacher in pairs]).sum()
    return ce, objective.kd_weight * objective.temperature**2 * kd


def _distillation(student_RM: Tensor, teacher_RM: Tensor, counts_RM: Tensor, objective: Objective) -> Tensor:
    """Sum over rows the soft cross-entropy (or KL divergence) of the student under the teacher's distribution.

    As in the released code it is by default no KL divergence (equal inputs give the entropy, not 0), and gradients
    reach the teacher too. Logits come divided by the temperature.

    Source: Ji et al., ACM MM 2023, section on online distillation; Hinton et al., arXiv:1503.02531.
    """
    if objective.detach_teacher:
        teacher_RM = teacher_RM.detach()
    target_RM = torch.softmax(teacher_RM + counts_RM, dim=1)
    log_student = student_RM - torch.logsumexp(student_RM + counts_RM, dim=1, keepdim=True)
    if objective.kl:
        log_student = log_student - (teacher_RM - torch.logsumexp(teacher_RM + counts_RM, dim=1, keepdim=True))
    return -(target_RM * log_student).sum()


def distillation_weight(epoch: int, rampup_epochs: float, weight: float) -> float:
    """Weight of the distillation loss in an epoch (counted from 1).

    ``weight * exp(-5 (1 - min(epoch, r) / r)^2)`` with ramp length r, or ``weight`` where there is no ramp. Source: the
    sigmoid-shaped ramp of Laine and Aila, arXiv:1610.02242, as in the released code.
    """
    if rampup_epochs <= 0:
        return weight
    progress = min(float(epoch), rampup_epochs) / rampup_epochs
    return weight * math.exp(-5.0 * (1.0 - progress) ** 2)
