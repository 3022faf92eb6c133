"""The two backbones (SlowFast, video ViT), their presets, weight files and the training stand-in."""
