"""Training a backbone together with a head: clips are decoded while training, other features come from the cache."""
