"""What `dataset suggest` proposes: people with actions to correct, and key frames to label next."""
