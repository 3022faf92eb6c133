import torch

from cache.statistics import STATISTICS, array_name
from tests.recognizer.feature_maps import kept


def test_maps_are_time_means_and_moments_cover_time_and_space() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(2, 5, 3, 4, 6, generator=generator)
    pooled = kept(vit=grid)
    exact = grid.double()
    torch.testing.assert_close(pooled["vit"].double(), exact.sum(2) / 3)
    flat = exact.flatten(2)
    torch.testing.assert_close(pooled["vit_moments"].double(), torch.stack([flat.mean(2), (flat**2).mean(2)], dim=1))
    # The variance over T,H,W cannot be had from the time mean: it must come from the full grid.
    assert not torch.allclose(pooled["vit"].square().mean((2, 3)), pooled["vit_moments"][:, 1], rtol=0.1)

    slow, fast = torch.randn(2, 4, 2, 3, 3, generator=generator), torch.randn(2, 1, 8, 3, 3, generator=generator)
    pooled = kept(slow=slow, fast=fast)
    torch.testing.assert_close(pooled["slow"], (slow[:, :, 0] + slow[:, :, 1]) / 2)
    assert pooled["fast"].shape == (2, 1, 3, 3)


def test_every_statistic_has_the_shape_that_it_announces() -> None:
    grid = torch.randn(2, 5, 3, 4, 6)
    for name, statistic in STATISTICS.items():
        assert statistic.compute(grid.half()).dtype == torch.float32
        assert tuple(statistic.compute(grid).shape) == (2, *statistic.row_shape((5, 3, 4, 6))), name
    # A reader takes the mean from all time steps, so both have the map's own name.
    assert array_name("slow", "full") == array_name("slow", "mean") == "slow"


def test_the_slope_tells_the_order_of_things_and_nothing_else() -> None:
    ramp_T, slope = torch.arange(4.0), STATISTICS["slope"].compute
    grid = ramp_T.expand(1, 1, 1, 1, 4).permute(0, 1, 4, 2, 3)
    # Deviations from the centre are 1.5, .5, .5, 1.5.
    torch.testing.assert_close(slope(grid).flatten(), torch.tensor([(1.5 * 1.5 + 0.5 * 0.5) * 2 / 4]))
    random = torch.randn(2, 5, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slope(random.flip(2)), -slope(random))
    torch.testing.assert_close(slope(random + 3), slope(random))
    torch.testing.assert_close(slope(random[:, :, :1]), torch.zeros(2, 5, 3, 4))
