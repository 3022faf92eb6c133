"""SlowFast: a slow pathway over few frames and a narrow fast one over all of them, joined at every stage."""
