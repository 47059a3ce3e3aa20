"""Tiny ImageNet for TensorFlow Datasets; importing `.tiny_imagenet` registers the builder."""
