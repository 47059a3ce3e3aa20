"""Operations on activations [C, S, H, W, B] with their gradients; nothing here knows Flax."""
