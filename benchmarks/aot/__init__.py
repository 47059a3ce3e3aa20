"""What the compilers for TPUs and GPUs make of the project's programs, on a machine that has neither."""
