"""Attention to a long-term feature bank.

N actors, V vectors of the bank, C channels of one, D channels of an actor's vector.
"""

import torch
from torch import Tensor, nn


class BankAttention(nn.Module):
    """The non-local operator of Long-Term Feature Banks (Wu et al. 2019), one layer: an actor asks, the bank answers.

    Its last layer begins at 0, so that training starts from the head without a bank.
    """

    def __init__(self, bank_channels: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.vector = nn.Linear(bank_channels, channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, actor_ND: Tensor, bank_VC: Tensor, seen_NV: Tensor) -> Tensor:
        """Return what to add to the actors' vectors, [N, D]; 0 for who sees nothing of the bank.

        seen_NV: bool, which vectors are around which actor.
        """
        vector_VD = self.dropout(torch.relu(self.vector(bank_VC)))
        key_VD, value_VD = self.key_value(vector_VD).chunk(2, dim=1)
        score_NV = self.query(actor_ND) @ key_VD.T / actor_ND.shape[1] ** 0.5
        # Not -inf, of which an actor who sees nothing would get NaN.
        lowest = torch.finfo(score_NV.dtype).min
        weight_NV = score_NV.masked_fill(~seen_NV, lowest).softmax(dim=1) * seen_NV
        found_ND = self.dropout(torch.relu(self.norm(weight_NV @ value_VD)))
        answer_ND: Tensor = self.out(found_ND) * seen_NV.any(dim=1, keepdim=True)
        return answer_ND
