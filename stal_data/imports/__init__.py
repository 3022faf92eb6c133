"""Files of annotation tools as a data set, and back."""
