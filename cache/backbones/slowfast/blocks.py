"""The blocks of SlowFast's residual stages. B clips, C channels, T frames, H, W rows and columns of the map."""

from typing import cast

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Residual block: (frames,1,1), (1,3,3) and (1,1,1) convolutions; [B,in,T,H,W] -> [B,width*expansion,T,H',W'].

    nonlocal_after: whether a non-local block follows.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        expansion: int,
        frames: int,
        stride: int,
        dilation: int,
        nonlocal_after: bool = False,
    ) -> None:
        super().__init__()
        out_channels = width * expansion
        self.conv1 = nn.Conv3d(in_channels, width, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(
            width,
            width,
            (1, 3, 3),
            stride=(1, stride, stride),
            padding=(0, dilation, dilation),
            dilation=(1, dilation, dilation),
            bias=False,
        )
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=(1, stride, stride), bias=False)
            )
            self.downsample_bn = nn.BatchNorm3d(out_channels)
        self.non_local = NonLocal(out_channels) if nonlocal_after else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        residual = x_BCTHW
        out = self.relu(self.bn1(self.conv1(x_BCTHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            residual = self.downsample_bn(self.downsample(x_BCTHW))
        out = self.relu(out + residual)
        return cast(Tensor, out if self.non_local is None else self.non_local(out))


class NonLocal(nn.Module):
    """Each place takes from all others, of every second frame, row and column; [B,C,T,H,W] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        pooled = self.pool(x_BCTHW)
        theta_BCN = self.conv_theta(x_BCTHW).flatten(2)
        phi_BCM, g_BCM = self.conv_phi(pooled).flatten(2), self.conv_g(pooled).flatten(2)
        # No softmax: the products are divided by their number.
        weights_BNM = theta_BCN.transpose(1, 2) @ phi_BCM / phi_BCM.shape[2]
        taken_BCN = g_BCM @ weights_BNM.transpose(1, 2)
        taken_BCTHW = taken_BCN.unflatten(2, x_BCTHW.shape[2:])
        return cast(Tensor, x_BCTHW + self.bn(self.conv_out(taken_BCTHW)))
