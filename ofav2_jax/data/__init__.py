"""Data sets, and the augmentation of images on the device."""
