//! The Burn executor: gradients, parameter store, trainer.
