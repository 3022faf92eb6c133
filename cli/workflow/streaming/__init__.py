"""Videos whose people are detected and scored by services, from frames that are sent to them."""
