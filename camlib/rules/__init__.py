"""Rules that replace what calls inside a model do, such as the gradient of a ReLU."""
