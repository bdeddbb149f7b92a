"""What was sent -> arrays: pictures, clips, tensors, and how a batch of them is decoded."""
