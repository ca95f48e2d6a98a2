"""Objects from an image: the TRELLIS architecture in plain torch, and its few-step students."""
