"""Trained models for other programs: an ONNX folder that is used without knobs, or torch.export."""
