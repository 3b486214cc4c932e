//! Reading and writing weights: real files, forged files, broken files.

mod directory;
mod fit;
mod forge;
mod hostile_container;
mod hostile_pickle;
mod hostile_safetensors;
mod mapped;
mod mutation;
mod pth_files;
mod state_dicts;
mod writing;
