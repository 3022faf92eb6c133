"""The frame, length and key frames that every synthetic video has."""

WIDTH, HEIGHT = 320, 180
RATE = 25
DURATION_S = 6
NUM_FRAMES = RATE * DURATION_S
KEY_SECONDS = (2, 3, 4)
