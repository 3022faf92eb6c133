"""Loss, optimizer and schedule of the published training, each written out from its definition."""

import torch
from torch import Tensor, nn


def plain_loss(logits_NC: Tensor, targets_NC: Tensor, poses: int = 13) -> Tensor:
    """Softmax over the poses and sigmoid over the rest, binary cross-entropy of each probability, the mean of all."""
    losses = []
    for logits_C, targets_C in zip(logits_NC, targets_NC, strict=True):
        exp_P = torch.exp(logits_C[:poses])
        probability_C = torch.cat([exp_P / exp_P.sum(), 1 / (1 + torch.exp(-logits_C[poses:]))])
        losses.append(-(targets_C * torch.log(probability_C) + (1 - targets_C) * torch.log(1 - probability_C)))
    return torch.cat(losses).mean()


def plain_learning_rate(step: int, steps_per_epoch: int) -> float:
    """From 0.008 linearly to 0.064 over the first epoch, then a tenth at epoch 5.6 and a tenth of that at 5.8."""
    epoch = step / steps_per_epoch
    if epoch < 1:
        return 0.008 + (0.064 - 0.008) * epoch
    return 0.064 if epoch < 5.6 else 0.0064 if epoch < 5.8 else 0.00064


class PlainSgd:
    """Stochastic gradient descent with Nesterov's momentum; the weight decay is a part of the gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float = 0.9, weight_decay: float = 1e-7) -> None:
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            gradient = parameter.grad + weight_decay * parameter
            velocity.mul_(momentum).add_(gradient)
            parameter -= learning_rate * (gradient + momentum * velocity)
            parameter.grad = None
