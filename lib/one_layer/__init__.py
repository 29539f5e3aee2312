"""The one-layer laboratory of Sec. 5: task, model, training, and what is measured in a trained model."""
