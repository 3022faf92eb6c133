"""Training SlowFast together with a head: clips are decoded while training, ViT features come from the cache."""
