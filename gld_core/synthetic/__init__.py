"""What can be made without photographs: rendered rooms and random networks."""
