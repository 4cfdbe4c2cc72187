"""GRU4Rec as a backbone: a recurrent network over the item vectors of a user.

Shape letters, used as name suffixes in this file:
    B users, R rows (real positions of all users), P longest sequence of the batch, D width
"""

import torch
from torch import Tensor, nn

from odmt.model.dropout import Dropout
from odmt.model.layout import SequenceLayout


class Gru4Rec(nn.Module):
    """Gated recurrent units over a user's items, then one linear layer back to the space of the item vectors.

    Source: Hidasi et al., ICLR 2016, arXiv:1511.06939, the network of its figure 1: input, GRU layers, feed-forward
    layer, scores. What differs: the input is the item's vector instead of a one-hot item (an ID table is the paper's
    input with an embedding layer), so the last layer has width D and the scores are dot products with item vectors;
    whole sequences are read at once instead of session-parallel steps; the loss belongs to the model. The cell is
    torch's: the reset gate acts after the recurrent product, ``n = tanh(W x + b + r * (U h + c))``, where the paper's
    acts on ``h`` before it, every affine map has a bias, and the update gate keeps the old state where the paper's
    takes the new one.

    Start values: weight matrices are uniform in [-x, x] with x from the numbers of rows and columns, as in the paper,
    which leaves x open: ``sqrt(6 / (rows + columns))``, one matrix a gate. Biases keep torch's start.
    """

    def __init__(self, width: int, num_layers: int, dropout: float) -> None:
        """Make an encoder.

        Args:
            width: D, of the item vectors and of the hidden states.
            num_layers: stacked GRU layers.
            dropout: probability of dropping an input activation, and one between two layers.

        Raises:
            ValueError: a number is out of its range.
        """
        super().__init__()
        if width < 1:
            raise ValueError(f"width: {width} is less than 1")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers} is less than 1")
        self.dropout = Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0  # torch warns of a dropout that has no place
        self.gru = nn.GRU(width, width, num_layers, batch_first=True, dropout=between)
        self.output = nn.Linear(width, width)
        self._start_glorot_uniform()

    def forward(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Encode the sequences.

        Args:
            items_RD: item vectors, one row a real position.
            layout: where the rows stand.

        Returns:
            ``(R, D)``: the state after each real position.
        """
        states_RD: Tensor = self.output(self._hidden(items_RD, layout))
        return states_RD

    def last_states(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Encode the sequences and keep the state after each user's last position: ``(B, D)``.

        Raises:
            ValueError: a user has no position.
        """
        rows_B = layout.last_rows()
        states_BD: Tensor = self.output(self._hidden(items_RD, layout)[rows_B])
        return states_BD

    def _hidden(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        # The padding stands after a user's real steps: the recurrence has left them before it reads any.
        hidden_BPD, _ = self.gru(layout.pad(self.dropout(items_RD)))
        return layout.pack(hidden_BPD)

    @torch.no_grad()
    def _start_glorot_uniform(self) -> None:
        for parameter in self.gru.parameters():
            if parameter.dim() == 2:
                for gate_DD in parameter.chunk(3):
                    nn.init.xavier_uniform_(gate_DD)
        nn.init.xavier_uniform_(self.output.weight)
