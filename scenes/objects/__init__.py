"""Objects from a picture: the TRELLIS architecture in plain torch, and its few-step students."""
