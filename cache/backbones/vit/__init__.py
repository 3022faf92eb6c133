"""The video ViT: tubelet tokens through pre-norm transformer blocks (the encoder of VideoMAE)."""
