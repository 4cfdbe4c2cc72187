"""Sequence encoders on packed rows, and the layout of these rows."""

import math
import warnings

import pytest
import torch
from torch.nn import functional as F

from odmt.model.gru4rec import Gru4Rec
from odmt.model.layout import SequenceLayout
from odmt.model.nextitnet import NextItNet

WIDTH = 8
WINDOW = 12
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 1e-12}

ENCODERS = {
    "gru4rec": lambda dropout=0.0: Gru4Rec(WIDTH, 2, dropout),
    "nextitnet": lambda dropout=0.0: NextItNet(WIDTH, 2, 3, dropout),
}
WITHOUT_POSITIONS = ("gru4rec", "nextitnet")
"""Encoders that know no slots of the window; to any other, a wider window is another place for the same item."""


@pytest.fixture(params=ENCODERS)
def name(request):
    return request.param


@pytest.fixture
def encoder(name):
    torch.manual_seed(0)
    return ENCODERS[name]().double()


def layout_of(*lengths, window=WINDOW):
    places = torch.arange(window)
    return SequenceLayout.of(torch.stack([places >= window - length for length in lengths]))


def items_of(layout, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(layout.user), WIDTH, dtype=torch.float64, generator=generator)


def test_steps_and_positions_are_those_counted_by_hand():
    layout = SequenceLayout.of(torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]]).bool())
    assert layout.user.tolist() == [0, 0, 1, 2, 2, 2]
    assert (layout.cell - layout.user * layout.longest).tolist() == [0, 1, 0, 0, 1, 2]
    assert layout.position.tolist() == [2, 3, 3, 1, 2, 3]
    assert layout.last.tolist() == [1, 2, 5]
    assert layout.cell.tolist() == [0, 1, 3, 6, 7, 8]
    assert (layout.num_users, layout.longest, layout.is_full) == (3, 3, False)


def test_a_user_of_padding_only_has_no_rows():
    layout = SequenceLayout.of(torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1]]).bool())
    assert layout.user.tolist() == [1, 3, 3]
    assert (layout.cell - layout.user * layout.longest).tolist() == [0, 0, 1]
    assert layout.last.tolist() == [-1, 0, 0, 2]
    assert (layout.num_users, layout.longest) == (4, 2)


def test_a_batch_of_padding_only_has_no_rows_and_an_empty_column():
    layout = layout_of(0, 0)
    assert len(layout.user) == len(layout.cell) == len(layout.position) == 0
    assert (layout.num_users, layout.longest, layout.is_full) == (2, 1, False)
    rectangle = layout.pad(torch.randn(0, WIDTH))
    assert torch.equal(rectangle, torch.zeros(2, 1, WIDTH))
    assert layout.pack(rectangle).shape == (0, WIDTH)


def test_a_batch_without_users_has_no_rows():
    layout = SequenceLayout.of(torch.zeros(0, WINDOW, dtype=torch.bool))
    assert (len(layout.user), len(layout.last), layout.num_users, layout.longest) == (0, 0, 0, 1)
    assert layout.pad(torch.randn(0, WIDTH)).shape == (0, 1, WIDTH)


def test_rows_stand_at_the_left_of_the_rectangle_and_padding_is_zero():
    layout = layout_of(1, 3)
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert layout.pad(rows).squeeze(2).tolist() == [[1, 0, 0], [2, 3, 4]]


@pytest.mark.parametrize("lengths", [(3, 0, 5, 1), (12,), (4, 4, 4), (0, 0), (0, 2), (2, 0)])
def test_padding_and_packing_again_changes_nothing(lengths):
    layout = layout_of(*lengths)
    rows = items_of(layout)
    assert layout.is_full == (len(set(lengths)) == 1 and lengths[0] > 0)
    torch.testing.assert_close(layout.pack(layout.pad(rows)), rows, **EXACT)


@pytest.mark.parametrize("name", WITHOUT_POSITIONS, indirect=True)
def test_more_left_padding_changes_nothing(encoder):
    narrow, wide = layout_of(5, 2, 1, window=5), layout_of(5, 2, 1, window=40)
    items = items_of(narrow)
    torch.testing.assert_close(encoder(items, wide), encoder(items, narrow), **EXACT)
    torch.testing.assert_close(encoder.last_states(items, wide), encoder.last_states(items, narrow), **EXACT)


def test_a_user_among_longer_and_shorter_ones_has_the_states_of_one_alone(encoder):
    lengths = (3, WINDOW, 1, 7)
    layout = layout_of(*lengths)
    items = items_of(layout)
    alone = [encoder(rows, layout_of(len(rows))) for rows in items.split(lengths)]
    torch.testing.assert_close(encoder(items, layout), torch.cat(alone), **ROUNDING)


@pytest.mark.parametrize("changed", range(9))
def test_an_item_changes_the_states_from_its_own_position_on_and_no_other(encoder, changed):
    layout = layout_of(9, 4)
    before = items_of(layout)
    after = before.clone()
    after[changed] += 1.0
    same = (encoder(before, layout) == encoder(after, layout)).all(dim=1)
    assert same.tolist() == [row < changed or row >= 9 for row in range(13)]


@pytest.mark.parametrize("lengths", [(3, WINDOW, 1, 7), (4, 4), (1,)])
def test_last_states_are_those_of_the_last_positions(encoder, lengths):
    layout = layout_of(*lengths)
    items = items_of(layout)
    rows = (torch.tensor(lengths).cumsum(0) - 1).tolist()
    torch.testing.assert_close(encoder.last_states(items, layout), encoder(items, layout)[rows], **ROUNDING)


def test_gradients_are_finite_and_reach_every_row_and_parameter(encoder):
    layout = layout_of(0, 3, WINDOW, 1)
    items = items_of(layout).requires_grad_()
    states = encoder(items, layout)
    (states * items_of(layout, seed=2)).sum().backward()
    assert items.grad.isfinite().all()
    assert (items.grad != 0).any(dim=1).all()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_sequences_of_one_item_are_encoded(encoder):
    layout = layout_of(1, 1, window=1)
    states = encoder(items_of(layout), layout)
    assert states.shape == (2, WIDTH)
    assert states.isfinite().all()


def test_a_user_without_items_has_no_states_and_changes_no_other(encoder):
    layout = layout_of(3, 2)
    items = items_of(layout)
    expected = encoder(items, layout)
    torch.testing.assert_close(encoder(items, layout_of(0, 3, 0, 2, 0)), expected, **ROUNDING)


def test_a_batch_without_any_item_has_no_states(encoder):
    for layout in (layout_of(0, 0), SequenceLayout.of(torch.zeros(0, WINDOW, dtype=torch.bool))):
        assert encoder(items_of(layout), layout).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("lengths", "num_empty"), [((0, 3), 1), ((3, 0), 1), ((2, 0, 2), 1), ((0, 0), 2), ((0, 5, 0, 1), 2)]
)
def test_a_user_without_items_has_no_last_state(encoder, lengths, num_empty):
    layout = layout_of(*lengths)
    with pytest.raises(ValueError, match=f"^{num_empty} of {len(lengths)} users have no items"):
        encoder.last_states(items_of(layout), layout)


def test_dropout_acts_in_training_only(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name](dropout=0.5).double()
    layout = layout_of(3, 5)
    items = items_of(layout)
    assert not torch.equal(encoder(items, layout), encoder(items, layout))
    encoder.eval()
    assert torch.equal(encoder(items, layout), encoder(items, layout))


def by_hand_gru4rec(encoder, items_PD):
    """Go through one sequence step by step with the gate equations."""
    for layer in range(encoder.gru.num_layers):
        names = (f"{kind}_{side}_l{layer}" for kind in ("weight", "bias") for side in ("ih", "hh"))
        (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n), (c_r, c_z, c_n) = (
            getattr(encoder.gru, name).split(WIDTH) for name in names
        )
        h = torch.zeros(WIDTH, dtype=torch.float64)
        hidden = []
        for x in items_PD:
            r = 1 / (1 + torch.exp(-(w_r @ x + b_r + u_r @ h + c_r)))
            z = 1 / (1 + torch.exp(-(w_z @ x + b_z + u_z @ h + c_z)))
            n = torch.tanh(w_n @ x + b_n + r * (u_n @ h + c_n))
            h = (1 - z) * n + z * h
            hidden.append(h)
        items_PD = torch.stack(hidden)
    return torch.stack([encoder.output.weight @ h + encoder.output.bias for h in items_PD])


def test_gru4rec_equals_the_gate_equations_step_by_step():
    torch.manual_seed(3)
    encoder = Gru4Rec(WIDTH, 2, 0.0).double()
    lengths = (4, WINDOW, 1)
    layout = layout_of(*lengths)
    items = items_of(layout)
    expected = torch.cat([by_hand_gru4rec(encoder, rows) for rows in items.split(lengths)])
    torch.testing.assert_close(encoder(items, layout), expected, rtol=0, atol=1e-10)


def test_gru4rec_starts_with_glorot_uniform_matrices():
    torch.manual_seed(4)
    encoder = Gru4Rec(64, 2, 0.0)
    bound = math.sqrt(6 / (64 + 64))
    matrices = [parameter for parameter in encoder.parameters() if parameter.dim() == 2]
    assert len(matrices) == 5
    for matrix in matrices:
        for gate in matrix.split(64):
            assert 0.98 * bound < gate.abs().max() <= bound


def test_one_gru_layer_drops_inputs_and_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = Gru4Rec(WIDTH, 1, 0.5).double()
    layout = layout_of(3, 5)
    items = items_of(layout)
    assert not torch.equal(encoder(items, layout), encoder(items, layout))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 1, 0.0), "width: 0 is less than 1"),
        ((WIDTH, 0, 0.0), "num_layers: 0 is less than 1"),
        ((WIDTH, 1, 1.0), r"dropout: 1.0 is not in \[0, 1\)"),
        ((WIDTH, 1, -0.1), r"dropout: -0.1 is not in \[0, 1\)"),
    ],
)
def test_gru4rec_refuses_bad_numbers(numbers, sentence):
    with pytest.raises(ValueError, match=sentence):
        Gru4Rec(*numbers)


def by_hand_layer(layer, x_PD, dilation):
    """Go through one sequence position by position and tap by tap; what lies before the first position is zero."""
    weight_DDK, bias = layer.convolution.weight, layer.convolution.bias
    num_taps = weight_DDK.shape[2]
    rows = []
    for position in range(len(x_PD)):
        total = bias.clone()
        for tap in range(num_taps):
            source = position - (num_taps - 1 - tap) * dilation
            if source >= 0:
                total = total + weight_DDK[:, :, tap] @ x_PD[source]
        centred = total - total.mean()
        normed = centred / torch.sqrt((centred**2).mean() + 1e-6)
        rows.append(torch.clamp(normed * layer.layer_norm.weight + layer.layer_norm.bias, min=0))
    return torch.stack(rows)


def by_hand_nextitnet(encoder, items_PD):
    x_PD = items_PD
    for block, (first, second) in zip(encoder.blocks, [(1, 2), (4, 8), (1, 2), (4, 8)], strict=True):
        x_PD = x_PD + by_hand_layer(block.second, by_hand_layer(block.first, x_PD, first), second)
    return x_PD


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_nextitnet_equals_a_loop_over_positions_and_taps(kernel_size):
    torch.manual_seed(5)
    encoder = NextItNet(WIDTH, 4, kernel_size, 0.0).double()
    for parameter in encoder.parameters():  # LayerNorm away from 1 and 0, so that padding would not stay zero
        torch.nn.init.normal_(parameter)
    lengths = (4, 20, 1)
    layout = layout_of(*lengths, window=20)
    items = items_of(layout)
    expected = torch.cat([by_hand_nextitnet(encoder, rows) for rows in items.split(lengths)])
    torch.testing.assert_close(encoder(items, layout), expected, rtol=0, atol=1e-10)


def test_a_nextitnet_of_two_blocks_reads_as_far_back_as_its_dilations_reach():
    torch.manual_seed(6)
    encoder = NextItNet(WIDTH, 2, 3, 0.0).double()
    layout = layout_of(40, window=40)
    items = items_of(layout).requires_grad_()
    F.linear(encoder(items, layout)[-1], torch.ones(1, WIDTH, dtype=torch.float64)).backward()
    read = (items.grad != 0).any(dim=1)
    assert read.nonzero().flatten().tolist() == list(range(39 - 2 * (1 + 2 + 4 + 8), 40))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 1, 3, 0.0), "width: 0 is less than 1"),
        ((WIDTH, 0, 3, 0.0), "num_layers: 0 is less than 1"),
        ((WIDTH, 1, 0, 0.0), "kernel_size: 0 is less than 1"),
        ((WIDTH, 1, 3, 1.0), r"dropout: 1.0 is not in \[0, 1\)"),
        ((WIDTH, 1, 3, -0.1), r"dropout: -0.1 is not in \[0, 1\)"),
    ],
)
def test_nextitnet_refuses_bad_numbers(numbers, sentence):
    with pytest.raises(ValueError, match=sentence):
        NextItNet(*numbers)
