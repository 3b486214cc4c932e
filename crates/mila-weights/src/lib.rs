//! Checkpoints: safetensors, a .pth reader that executes nothing, model directories.
