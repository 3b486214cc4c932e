//! Vision backbones whose global mixing costs linear time: train, evaluate, predict, inspect.
