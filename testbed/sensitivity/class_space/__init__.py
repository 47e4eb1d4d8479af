"""What every hidden state of a model says about the classes, read through the model's own norm and head."""
