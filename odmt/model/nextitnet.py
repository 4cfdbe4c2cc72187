"""NextItNet: dilated causal convolutions over the item vectors of a user.

Shape letters, used as name suffixes in this file:
    B users, R rows (real positions of all users), P longest sequence of the batch, D width
"""

from torch import Tensor, nn
from torch.nn import functional as F

from odmt.model.attention import LAYER_NORM_EPS
from odmt.model.dropout import Dropout
from odmt.model.layout import SequenceLayout

BLOCK_DILATIONS = (1, 4)
"""First dilation of the blocks in turn; a block's second one is twice it, so the stack has 1, 2, 4, 8, 1, 2, 4, 8."""


class NextItNet(nn.Module):
    """A stack of residual blocks of two dilated causal convolutions each.

    With kernel size k, blocks 1 and 2 read 3 (k - 1) and 12 (k - 1) positions back, and so on in turn; reaches add up.

    Source: Yuan et al., WSDM 2019, arXiv:1808.05163, with the residual block of its figure 3b. What differs: the input
    is the item's vector instead of a row of an embedding table, and the states are scored by dot products with item
    vectors, so the final 1 x 1 convolution onto the catalogue is left out; there is a dropout on the input; LayerNorm
    has the epsilon of the other encoders.

    Start values: torch's own. The paper gives none (its released code: normal, deviation 0.02, biases 0).
    """

    def __init__(self, width: int, num_layers: int, kernel_size: int, dropout: float) -> None:
        """Make an encoder.

        Args:
            width: D, of the item vectors and of all channels.
            num_layers: residual blocks, two convolutions each.
            kernel_size: taps of a convolution; 3 in the paper.
            dropout: probability of dropping an input activation.

        Raises:
            ValueError: a number is out of its range.
        """
        super().__init__()
        for name, number in (("width", width), ("num_layers", num_layers), ("kernel_size", kernel_size)):
            if number < 1:
                raise ValueError(f"{name}: {number} is less than 1")
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel_size, BLOCK_DILATIONS[block % len(BLOCK_DILATIONS)])
            for block in range(num_layers)
        )

    def forward(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Encode the sequences.

        Args:
            items_RD: item vectors, one row a real position.
            layout: where the rows stand.

        Returns:
            ``(R, D)``: the state after each real position.
        """
        x_BPD = layout.pad(self.dropout(items_RD))
        for block in self.blocks:
            x_BPD = block(x_BPD)
        return layout.pack(x_BPD)

    def last_states(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Encode the sequences and keep the state after each user's last position: ``(B, D)``.

        Raises:
            ValueError: a user has no position.
        """
        rows_B = layout.last_rows()
        return self.forward(items_RD, layout)[rows_B]


class ResidualBlock(nn.Module):
    """``x + second(first(x))``, the second layer dilated twice as much as the first."""

    def __init__(self, width: int, kernel_size: int, dilation: int) -> None:
        """Make a block whose layers have the dilations d and 2d."""
        super().__init__()
        self.first = CausalLayer(width, kernel_size, dilation)
        self.second = CausalLayer(width, kernel_size, 2 * dilation)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Apply the block; same shape."""
        transformed: Tensor = self.second(self.first(x_BPD))
        return x_BPD + transformed


class CausalLayer(nn.Module):
    """Dilated causal convolution, LayerNorm over the channels, ReLU."""

    def __init__(self, width: int, kernel_size: int, dilation: int) -> None:
        """Make a layer."""
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.convolution = nn.Conv1d(width, width, kernel_size, dilation=dilation)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Read each position and those before it, zeros before the first; same shape.

        Sequences start in column 0, so the zeros come in anew at every layer: no layer reads what an earlier one
        would have made of padding.
        """
        convolved_BDP = self.convolution(F.pad(x_BPD.transpose(1, 2), (self.reach, 0)))
        return F.relu(self.layer_norm(convolved_BDP.transpose(1, 2)))
