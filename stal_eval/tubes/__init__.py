"""video-mAP: tubes, the boxes of one person and class over time, which must be found as a whole."""
