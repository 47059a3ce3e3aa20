"""Data sets, and what happens to images on the device."""
