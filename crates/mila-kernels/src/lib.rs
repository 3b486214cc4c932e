//! CPU kernels on slices, forward and backward.
