"""What a call inside the model does instead."""
